"""Failure is a condition: servers that die, fall silent or come late, and no query lost to them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import pairwise

import pytest
from torch import Tensor

from testbed.worker.arrivals import ArrivalRule
from testbed.worker.client import Connection, Overtaken
from testbed.worker.equipment import Rules
from testbed.worker.hedge import Hedge
from testbed.worker.layout import ServerTimes
from testbed.worker.server_link import ServerLink, Unreachable
from tests.unit.device_runs import LAYOUTS, MS, OUTPUTS, PROBE, Run, S, Server, endpoint, status


@pytest.fixture
def server() -> Iterator[Server]:
    with closing(Server()) as running:
        yield running


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


def test_overload_drops_and_says_so(server: Server) -> None:
    rules = Rules(ArrivalRule("periodic", MS // 100, "newest"))
    with closing(Run(server, "local", rules)) as run:
        record = run.until(status("dropped"))
        assert (record["split"], record["bytes_up"]) == ("", 0)
        run.until(status("ok"))
    assert run.done["dropped"] >= 1
    assert run.done["arrived"] == len([r for r in run.all if r["kind"] == "measured"])
