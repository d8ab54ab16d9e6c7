"""A run on the device against a server that can be made to fail, in one process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from testbed.policy.agent import Agent, ProbeRule
from testbed.policy.latency import Candidate
from testbed.policy.policies import make_policy
from testbed.worker.client import Endpoint
from testbed.worker.encoding import Decoder, Encoder
from testbed.worker.equipment import Equipment, Rules
from testbed.worker.loop import Loop
from testbed.worker.server_link import ServerLink
from testbed.worker.service import Job
from tests.unit.loopback_server import LAYOUTS, OUTPUTS, SPLITS, TABLE, LoopbackServer

MS, S = 10**6, 10**9
PROBE = ProbeRule(20_000, S, 10**6)
CANDIDATES = tuple(
    Candidate(split, 10 * MS if split == "local" else 0, 0, 0, MS, 300, 300) for split in SPLITS
)


class Engine:
    """A model whose head is the pixels' first values and whose tail is a sum."""

    def __init__(self) -> None:
        self.tails: list[float] = []
        self.table = TABLE

    def head(self, split: str, x: Tensor) -> Tensor:
        return x if split == "offload" else x.flatten()[:64].float().view(1, 4, 4, 4)

    def tail(self, split: str, received: Tensor) -> Tensor:
        self.tails.append(float(received.float().sum()))
        received.zero_()  # it owns what it was given
        return torch.zeros(1, OUTPUTS)


class Server(LoopbackServer):
    """One that can be killed, silenced and brought back on its port."""

    def __init__(self) -> None:
        self.answering = threading.Event()
        self.answering.set()
        super().__init__()

    def start(self) -> None:
        self.listen(self.port)
        self.answering.set()

    def run(self, job: Job) -> None:
        self.answering.wait()
        job.tail_ns = 1 if job.layout is not None else 0
        super().run(job)

    def close(self) -> None:
        self.answering.set()
        super().close()

    kill = close


def endpoint(server: Server, timeout_ns: int = 5 * S) -> Endpoint:
    return Endpoint("127.0.0.1", server.port, "secret", timeout_ns, None)


class Run:
    """The device's loop in a thread of its own, with its records as they come."""

    def __init__(self, server: Server, policy: str, rules: Rules) -> None:
        self.engine = Engine()
        generator = torch.Generator().manual_seed(1)
        x = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8, generator=generator)
        kit = Equipment(
            engine=self.engine,  # type: ignore[arg-type]
            layouts=LAYOUTS,
            candidates=SPLITS,
            encoder=Encoder(LAYOUTS),
            decoder=Decoder(LAYOUTS.values()),
            inputs=(x,),
            batch=1,
            outputs=OUTPUTS,
        )
        self.sum = float(x.flatten()[:64].float().sum())
        self.records: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.all: list[dict[str, Any]] = []
        self.stopping = threading.Event()
        probe = memoryview(bytes(PROBE.bytes))
        self.link = ServerLink(endpoint(server), OUTPUTS, probe)
        agent = Agent(make_policy(policy, SPLITS, seed=1), CANDIDATES, MS, PROBE)
        self.loop = Loop(
            kit, agent, self.link, probe, run_id="r", device="d", policy=policy,
            emit=self.records.put, rules=rules,
        )  # fmt: skip
        self.done: dict[str, Any] = {}
        self.thread = threading.Thread(target=self.measure)
        self.thread.start()

    def measure(self) -> None:
        self.done = self.loop.measure(600 * S, self.stopping.is_set)

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            record = self.records.get(timeout=20)
            self.all.append(record)
            if wanted(record):
                return record

    def close(self) -> None:
        self.stopping.set()
        self.thread.join()
        self.link.close()
        while not self.records.empty():
            self.all.append(self.records.get())


def status(wanted: str, kind: str = "measured") -> Callable[[dict[str, Any]], bool]:
    return lambda record: (record["status"], record["kind"]) == (wanted, kind)
