"""A role as a process on pipes, with torch and nothing else of what the orchestrator needs."""

from __future__ import annotations

import json
import os
import queue
import secrets
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = "torchvision timm numpy yaml pydantic paramiko pyroute2 pandas rich scipy matplotlib"
# Absent, as on a host that never had them: found nowhere, rather than failing to load.
SITE = f"""
import sys
from importlib.machinery import PathFinder
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED.split()!r}:
            return None
        return PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""
TIMEOUT_NS = 2 * 10**9
MEASURED_NS = 400_000_000


class Block(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, 1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x)) + 1


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.features = nn.Sequential(Block(4, 2), Block(4, 2))
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(self.stem(x)).mean((2, 3)))


class Role:
    """A role process on pipes, with its records apart from its answers."""

    def __init__(self, name: str, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "testbed.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        self.answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.records: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        with self.process.stdout as stream:
            for line in stream:
                message = json.loads(line)
                record = message["type"] == "record"
                (self.records if record else self.answers).put(message)
        self.answers.put(None)

    def send(self, kind: str, **fields: Any) -> None:
        self.process.stdin.write(json.dumps({"type": kind, **fields}).encode() + b"\n")
        self.process.stdin.flush()

    def wait(self, kind: str) -> dict[str, Any]:
        answer = self.answers.get(timeout=60)
        assert answer is not None, f"the role ended where {kind} was expected"
        assert answer["type"] == kind, answer
        return answer

    def ask(self, kind: str, answer: str, **fields: Any) -> dict[str, Any]:
        self.send(kind, **fields)
        return self.wait(answer)

    def taken(self, file: str) -> list[dict[str, Any]]:
        found = []
        while not self.records.empty():
            message = self.records.get()
            assert message["file"] == file
            found.append(message["record"])
        return found

    def close(self) -> int:
        if not self.process.stdin.closed:
            self.process.stdin.close()
        status = self.process.wait(10)
        self.reader.join()
        return status


def set_up_server(role: Role, setup: dict[str, Any]) -> dict[str, Any]:
    return role.ask("setup", "ready", **setup, data={"address": "127.0.0.1", "port": 0})


def set_up_device(role: Role, setup: dict[str, Any]) -> dict[str, Any]:
    return role.ask("setup", "ready", **setup, input_seed=1, inputs=3)


def begin(server: Role, port: int, run_id: str) -> dict[str, Any]:
    token = secrets.token_hex(8)
    server.ask("start", "started", run_id=run_id, token=token)
    server.send("go")
    return {"address": "127.0.0.1", "port": port, "token": token}


def end(server: Role) -> dict[str, Any]:
    return server.ask("stop", "done")


def start_message(endpoint: dict[str, Any] | None, policy: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_id": "r1",
        "device": "d",
        "policy": policy,
        "seed": 5,
        "server": endpoint,
        "profile": None,
        "warmup_queries": 2,
        "duration_ns": MEASURED_NS,
        "probe": {"bytes": 40_000, "interval_ns": 50_000_000, "budget_bytes": 120_000},
        "timeout_ns": TIMEOUT_NS,
        "congestion_control": None,
    }
