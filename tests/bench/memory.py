"""Measure what the device and server roles weigh, with few candidates and with all of them.

``python -m tests.bench.memory`` prints and writes ``bench-memory.json``: the most memory that each
role has ever held (``VmHWM``) after every candidate has crossed the wire once, less that of a bare
process that has imported torch and loaded the weights. Bound: 64 MiB, whatever the number of
candidates; cuts are between layers, so that there are many. Exit status 1: missed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from testbed.config.experiment import ModelSpec
from testbed.hosts.launch import STEADY_MALLOC
from testbed.model.cache import Prepared, prepare

MODEL, BOUND_BYTES = "mobilenet_v2", 64 * 2**20
WANTED = ("compressive", "all")
TOKEN = "token"
# The archive holds the graph as text beside the weights.
BARE = """
import sys, torch
torch.set_num_threads(1)
held = torch.load(sys.argv[1])["weights"]
print(flush=True)
sys.stdin.read()
"""


class Worker:
    """A process with lines of JSON on its pipes."""

    def __init__(self, *arguments: str) -> None:
        argv = [sys.executable, *arguments]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **STEADY_MALLOC, "OMP_NUM_THREADS": "1"},
        )

    def read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def tell(self, kind: str, **fields: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"type": kind, **fields}) + "\n")
        self._process.stdin.flush()

    def wait(self, answer: str) -> dict[str, Any]:
        while (found := json.loads(self.read()))["type"] == "record":
            pass
        if found["type"] != answer:
            raise SystemExit(f"expected {answer}, got {found}")
        return dict(found)

    def end(self) -> int:
        """The most memory that it ever held, in bytes; it is ended then."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        self._process.communicate()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def bare(prepared: Prepared) -> int:
    worker = Worker("-c", BARE, str(prepared.archive))
    worker.read()
    return worker.end()


def roles(prepared: Prepared, candidates: tuple[str, ...]) -> dict[str, int]:
    """The most memory of both roles, each candidate having crossed once."""
    setup = {
        "archive": str(prepared.archive),
        "archive_sha256": prepared.archive_sha256,
        "table": prepared.table.to_json(),
        "candidates": candidates,
        "encoding": {"input": "uint8", "features": "float32"},
        "batch": 1,
        "threads": 1,
    }
    data = {"address": "127.0.0.1", "port": 0}
    server = Worker("-m", "testbed.worker", "server")
    server.wait("hello")
    server.tell("setup", **setup, data=data)
    port = server.wait("ready")["port"]
    server.tell("start", token=TOKEN, run_id="memory")
    server.wait("started")
    server.tell("go")
    device = Worker("-m", "testbed.worker", "device")
    device.wait("hello")
    device.tell("setup", **setup, input_seed=0, inputs=1)
    device.wait("ready")
    device.tell("verify", server={**data, "port": port, "token": TOKEN}, congestion_control=None)
    device.wait("verified")
    return {"device": device.end(), "server": server.end()}


def main() -> None:
    prepared = prepare(ModelSpec(name=MODEL, granularity="layer"))
    bare_bytes = bare(prepared)
    found: dict[str, Any] = {"bare_bytes": bare_bytes, "bound_bytes": BOUND_BYTES, "over_bytes": {}}
    for wanted in WANTED:
        candidates = prepared.table.candidates(wanted)
        over = {role: most - bare_bytes for role, most in roles(prepared, candidates).items()}
        found["over_bytes"][len(candidates)] = over
        told = ", ".join(f"{role} {more / 2**20:+.1f}" for role, more in over.items())
        print(
            f"{MODEL}, {len(candidates)} candidates: {told} MiB over torch and weights", flush=True
        )
    Path("bench-memory.json").write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(
        any(most > BOUND_BYTES for over in found["over_bytes"].values() for most in over.values())
    )


if __name__ == "__main__":
    main()
