"""Failure is a condition: servers that die, fall silent or come late, and no query lost to them."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from testbed.model.table import SplitPoint, SplitTable
from testbed.policy.agent import Agent, ProbeRule
from testbed.policy.latency import Candidate
from testbed.policy.policies import make_policy
from testbed.worker.arrivals import ArrivalRule, Arrivals
from testbed.worker.client import Connection, Endpoint, Overtaken
from testbed.worker.encoding import Decoder, Encoder
from testbed.worker.equipment import Equipment, Rules
from testbed.worker.hedge import Hedge
from testbed.worker.layout import ServerTimes, layouts
from testbed.worker.loop import Loop
from testbed.worker.server_link import ServerLink, Unreachable
from testbed.worker.service import Job, Service, Terms

MS, S = 10**6, 10**9
OUTPUTS = 5
TABLE = SplitTable(
    "tiny",
    8,
    (3, 8, 8),
    OUTPUTS,
    (
        SplitPoint("offload", -1, "input", (), ((3, 8, 8),), 1.0, False, False),
        SplitPoint("0", 0, "a", ("a",), ((4, 4, 4),), 0.3, True, True),
        SplitPoint("local", 1, "output", ("b",), ((OUTPUTS,),), 0.03, False, False),
    ),
)
SPLITS = ("offload", "0", "local")
LAYOUTS = layouts(TABLE, SPLITS, {"input": "uint8", "features": "float32"}, 1)
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


class Server:
    """A real service on loopback that can be killed, silenced and brought back on its port."""

    def __init__(self) -> None:
        self.port = 0
        self.answering = threading.Event()
        self.open: list[socket.socket] = []
        self.start()

    def start(self) -> None:
        terms = Terms("secret", tuple(LAYOUTS.values()), OUTPUTS, True, None)
        self.decoder, self.service = Decoder(LAYOUTS.values()), Service(terms, lambda event: None)
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        self.answering.set()
        runs = (self.accept, self.execute)
        self.threads = [threading.Thread(target=run) for run in runs]
        for thread in self.threads:
            thread.start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                self.service.admit(self.listener.accept()[0], "peer")

    def execute(self) -> None:
        while (job := self.service.jobs.get()) is not None:
            self.answering.wait()
            self.run(job)

    def run(self, job: Job) -> None:
        if job.layout is not None:
            job.logits.fill_(float(self.decoder.decode(job.layout, job.received).float().sum()))
            job.tail_ns = 1
        job.finished.put(job)

    def kill(self) -> None:
        self.answering.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.service.jobs.put(None)
        for thread in self.threads:
            thread.join()
        self.service.close()

    close = kill


@pytest.fixture
def server() -> Iterator[Server]:
    with closing(Server()) as running:
        yield running


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


def test_a_hundred_outages_lose_no_query_and_stick_nowhere(server: Server) -> None:
    rules = Rules(ArrivalRule("periodic", 2 * MS, "queue"), deadline_ns=20 * MS)
    with closing(Run(server, "static:0", rules)) as run:
        for outage in range(100):
            run.until(status("ok"))
            if outage % 2:
                server.kill()
            else:
                server.answering.clear()
            first = run.until(status("fallback"))
            assert first["split"] == "0"  # finished from the tensor it held
            later = run.until(status("fallback"))
            if later["split"] == "local":
                assert (later["bytes_up"], later["encoding"]) == (0, "")
            if outage % 2:
                server.start()
            else:
                server.answering.set()
            assert run.until(status("ok", "probe"))["bytes_up"] > PROBE.bytes
    measured = [record for record in run.all if record["kind"] == "measured"]
    dues = [record["t_due_ns"] for record in measured]
    assert len(measured) == run.done["arrived"]
    assert {b - a for a, b in pairwise(sorted(dues))} == {2 * MS}
    assert {"ok", "fallback"} <= {r["status"] for r in measured} <= {"ok", "fallback", "dropped"}
    assert {total for total in run.engine.tails if total} == {run.sum}
    assert [r["query"] for r in run.all] == list(range(len(run.all)))


def test_reply_after_the_deadline_is_not_waited_for(server: Server) -> None:
    with closing(Run(server, "static:0", Rules(deadline_ns=30 * MS))) as run:
        run.until(status("ok"))
        server.answering.clear()
        late = run.until(status("fallback"))
        assert late["late"]
        assert 30 * MS <= late["e2e_ns"] < 5 * S
        server.answering.set()
        assert not run.until(status("ok"))["late"]


def test_hedge_finishes_here_and_keeps_the_connection(server: Server) -> None:
    with closing(Run(server, "static:0", Rules(hedge=True))) as run:
        run.until(status("ok", "measured"))
        # A prediction needs a rate: nothing is estimated here, so it is given.
        run.loop._agent._rate.add(0, 60_000, 48 * MS)
        for _ in range(40):
            run.until(status("ok"))
        server.answering.clear()
        assert run.until(status("fallback"))["split"] == "0"
        for _ in range(3):  # the server owes a reply, and gets no more to do
            assert run.until(status("fallback"))["split"] == "local"
        server.answering.set()
        assert run.until(status("ok"))["split"] == "0"
    assert {total for total in run.engine.tails if total} == {run.sum}
    assert run.link._thread is None  # nothing was made again


def test_a_query_that_was_overtaken_leaves_the_next_ones_their_time_out(server: Server) -> None:
    hedge = Hedge(0, lambda: ServerTimes(0, 0, 0, None, None, b""))
    payload = memoryview(bytes(256))
    with closing(Connection(endpoint(server), OUTPUTS)) as connection:
        server.answering.clear()
        with pytest.raises(Overtaken):
            connection.query(1, LAYOUTS["0"], payload, bound_ns=200 * MS, hedge=hedge)
        hedge.join()
        server.answering.set()
        while not connection.free():
            pass
        server.answering.clear()
        threading.Timer(0.4, server.answering.set).start()
        assert connection.query(2, LAYOUTS["0"], payload).times.wait_ns > 200 * MS


def test_a_hedge_whose_time_is_over_waits_no_longer() -> None:
    near, far = socket.socketpair()
    with near, far:
        hedge = Hedge(5 * S, lambda: ServerTimes(0, 0, 0, None, None, b""))
        # The send alone took longer than the bound.
        hedge.overtakes(near, -MS)
        assert hedge.join().tail_ns == 0


def test_a_query_that_breaks_the_run_has_a_record_and_so_have_those_that_waited(
    server: Server,
) -> None:
    def measure(run: Run) -> None:
        with suppress(RuntimeError):
            run.loop.measure(600 * S, run.stopping.is_set)
        run.records.put({"status": "over", "kind": ""})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "measure", measure)
        rules = Rules(ArrivalRule("periodic", 5 * MS, "queue"))
        with closing(Run(server, "static:0", rules)) as run:
            run.until(status("ok"))

            def head(split: str, x: Tensor) -> Tensor:
                run.stopping.wait(0.1)  # others fall due meanwhile
                raise RuntimeError("out of memory")

            run.engine.head = head  # type: ignore[method-assign]
            run.until(status("over", ""))
    measured = [r for r in run.all if r["kind"] == "measured"]
    failed = [r for r in measured if r["status"] == "failed"]
    assert [r["split"] for r in failed] == ["0"]
    assert failed[0]["e2e_ns"] >= 100 * MS
    assert len([r for r in measured if r["status"] == "dropped"]) >= 15
    dues = sorted(r["t_due_ns"] for r in measured)
    assert {b - a for a, b in pairwise(dues)} == {5 * MS}


def test_link_is_down_until_a_probe_has_crossed(server: Server) -> None:
    link = ServerLink(endpoint(server), OUTPUTS, memoryview(bytes(20_000)))
    payload = memoryview(bytes(256))
    with closing(link):
        assert link.query(1, LAYOUTS["0"], payload).times.wait_ns > 0
        server.kill()
        with pytest.raises(Exception, match=r"closed|reset|pipe"):
            link.query(2, LAYOUTS["0"], payload)
        assert not link.up()
        with pytest.raises(Unreachable):
            link.query(3, LAYOUTS["0"], payload)
        server.start()
        assert link._thread is not None
        link._thread.join(10)
        assert link.up()
        recovery = link.recovered()
        assert recovery is not None
        assert recovery.reply.bytes_up > 20_000
        assert link.recovered() is None
        assert link.query(4, LAYOUTS["0"], payload).times.wait_ns > 0


def test_closing_ends_the_attempts(server: Server) -> None:
    link = ServerLink(endpoint(server, 60 * S), OUTPUTS, memoryview(bytes(20_000)))
    server.answering.clear()
    with pytest.raises(Exception, match="time"):
        link.query(1, LAYOUTS["0"], memoryview(bytes(256)), bound_ns=MS)
    link.close()
    assert link._thread is not None
    assert not link._thread.is_alive()
    assert not link.up()


def take_all(arrivals: Arrivals, moments: list[int]) -> tuple[list[int], list[int]]:
    taken, dropped = [], []
    for now_ns in moments:
        if arrivals.wait_ns(now_ns) == 0:
            due_ns, older = arrivals.take(now_ns)
            assert due_ns is not None
            taken.append(due_ns)
            dropped += older
    return taken, dropped


def test_camera_takes_the_newest_or_queues() -> None:
    moments = [0, 10, 25, 70, 71]
    newest = Arrivals(ArrivalRule("periodic", 20, "newest"), 1, 0)
    assert take_all(newest, moments) == ([0, 20, 60], [40])
    assert newest.wait_ns(72) == 8
    queued = Arrivals(ArrivalRule("periodic", 20, "queue"), 1, 0)
    assert take_all(queued, moments) == ([0, 20, 40, 60], [])
    assert queued.rest(130) == [80, 100, 120]
    assert (queued.arrived, queued.most_waiting) == (7, 3)


def test_poisson_has_its_mean_and_is_the_seeds() -> None:
    def dues(seed: int) -> list[int]:
        return Arrivals(ArrivalRule("poisson", 10 * MS, "queue"), seed, 0).rest(20 * S)

    assert dues(1) == dues(1) != dues(2)
    assert len(dues(1)) == pytest.approx(2000, rel=0.08)


def test_closed_loop_is_always_due() -> None:
    closed = Arrivals(ArrivalRule(), 1, 0)
    assert closed.wait_ns(5) == 0
    assert closed.take(5) == (None, [])
    assert closed.rest(10) == []


def test_overload_drops_and_says_so(server: Server) -> None:
    rules = Rules(ArrivalRule("periodic", MS // 100, "newest"))
    with closing(Run(server, "local", rules)) as run:
        record = run.until(status("dropped"))
        assert (record["split"], record["bytes_up"]) == ("", 0)
        run.until(status("ok"))
    assert run.done["dropped"] >= 1
    assert run.done["arrived"] == len([r for r in run.all if r["kind"] == "measured"])
