"""One run on the device: queries one after another, each with its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from time import monotonic_ns, sleep
from typing import Any, Literal

from testbed.model.table import LOCAL
from testbed.policy.agent import Agent, Decision
from testbed.worker.arrivals import Arrivals
from testbed.worker.client import Overtaken, Reply
from testbed.worker.equipment import Equipment, Rules
from testbed.worker.hedge import Hedge
from testbed.worker.host import StealMeter
from testbed.worker.layout import Layout, ServerTimes
from testbed.worker.server_link import ServerLink
from testbed.worker.timing import Timing
from testbed.worker.wire import WireError

# A stop is noticed, and a deadline that has passed is still a wait, within these.
_POLL_NS = 50_000_000
_LEAST_BOUND_NS = 1_000_000
_NOTHING = ServerTimes(0, 0, 0, None, None, b"")
_NO_DECISION = Decision("", None, 1.0, None, False)


class Loop:
    """Queries of one run as they fall due; every query due leaves a record.

    ``link`` is None where the run has no server: then only ``local`` may be chosen. A query
    whose exchange fails, or whose reply is later than the deadline or the hedge, is finished on
    the device from what it holds, with status ``fallback``; so is every query that would cross
    while the link is down. ``emit`` is given each record after its clock has stopped.
    """

    def __init__(
        self,
        equipment: Equipment,
        agent: Agent,
        link: ServerLink | None,
        probe: memoryview,
        *,
        run_id: str,
        device: str,
        policy: str,
        emit: Callable[[Mapping[str, Any]], None],
        seed: int = 0,
        rules: Rules | None = None,
    ) -> None:
        self._kit = equipment
        self._agent = agent
        self._link = link
        self._probe_payload = probe
        self._rules = rules or Rules()
        self._identity: dict[str, Any] = {
            "run_id": run_id,
            "device": device,
            "batch": equipment.batch,
            "policy": policy,
            "late_after_ns": self._rules.late_after_ns,
        }
        self._seed = seed
        self._emit = emit
        self._steal = StealMeter()
        self._numbers = 0

    def warm_up(self, queries: int, stopping: Callable[[], bool]) -> None:
        """At least ``queries`` queries, and each split that the policy may choose once."""
        splits = (self._agent.choices or self._kit.candidates) if self._link else (LOCAL,)
        for turn in range(max(queries, len(splits))):
            if stopping():
                return
            self._query("warmup", Decision(splits[turn % len(splits)], None, 1.0, None, False))

    def measure(self, duration_ns: int, stopping: Callable[[], bool]) -> dict[str, Any]:
        """Queries until the time is over, the policy has no more, or the run is stopped.

        Probes go between queries when one is due. Returns the fields of ``done``.
        """
        self._steal = StealMeter()
        queries, begun_ns = 0, monotonic_ns()
        end_ns = begun_ns + duration_ns
        arrivals = Arrivals(self._rules.arrivals, self._seed, begun_ns)
        self._agent.begin(begun_ns)
        dropped: list[int] = []
        try:
            while (now := monotonic_ns()) < end_ns and not self._agent.finished and not stopping():
                self._settle_recovery()
                if self._link is not None and self._link.up() and self._agent.probe_due(now):
                    self._probe(self._link)
                elif (wait_ns := arrivals.wait_ns(now)) > 0:
                    sleep(min(wait_ns, end_ns - now, _POLL_NS) / 1e9)
                else:
                    due_ns, older = arrivals.take(now)
                    self._drop(older)
                    dropped += older
                    queries += self._query("measured", due_ns=due_ns) == "measured"
        finally:
            rest = arrivals.rest(min(end_ns, monotonic_ns()) - 1)
            self._drop(rest)
        return {
            "queries": queries,
            "t0_ns": begun_ns,
            "t1_ns": monotonic_ns(),
            "steal_share": self._steal.share(),
            "arrived": arrivals.arrived,
            "dropped": len(dropped) + len(rest),
            "backlog_end": len(rest),
            "backlog_most": arrivals.most_waiting,
            "policy_fault": self._agent.fault,
        }

    def _query(
        self,
        kind: Literal["warmup", "measured"],
        decision: Decision | None = None,
        due_ns: int | None = None,
    ) -> str:
        """One query and its record; its kind then, ``warmup`` while the policy still settles."""
        query, start_ns = self._take_number(), monotonic_ns()
        try:
            if decision is None:
                decision = self._agent.decide(start_ns)
            timing = self._timed(query, kind, decision, start_ns, due_ns)
        except Exception:  # it ends the run, which tells why; the query was due all the same
            decided = decision or _NO_DECISION
            timing = Timing(
                *(query, kind, decided, "", start_ns, 0, 0, 0, monotonic_ns()),
                status="failed",
                due_ns=due_ns,
            )
            self._emit(timing.record(**self._identity, steal_ticks=None))
            raise
        self._settle(timing)
        return timing.kind

    def _timed(
        self,
        query: int,
        kind: Literal["warmup", "measured"],
        decision: Decision,
        start_ns: int,
        due_ns: int | None,
    ) -> Timing:
        kit = self._kit
        x = kit.inputs[query % len(kit.inputs)]
        status: Literal["ok", "fallback"] = "ok"
        if decision.split != LOCAL and self._link is not None and not self._link.up():
            # The whole model, from the input: nothing crosses until a probe or a late reply has.
            decision, status = replace(decision, split=LOCAL, predicted_ns=None), "fallback"
        decided_ns = monotonic_ns()
        intermediate = kit.engine.head(decision.split, x)
        headed_ns = monotonic_ns()
        kind = "warmup" if decision.settling else kind
        times = (start_ns, decided_ns - start_ns, headed_ns - decided_ns)
        if decision.split == LOCAL:
            timing = Timing(query, kind, decision, "", *times, 0, headed_ns, None, _NOTHING, status)
            return replace(timing, due_ns=due_ns, correct=kit.correct(query, intermediate))
        layout = kit.layouts[decision.split]
        payload = kit.encoder.encode(decision.split, intermediate)
        encode_ns = monotonic_ns() - headed_ns
        timed = partial(
            Timing, query, kind, decision, layout.encoding, *times, encode_ns, due_ns=due_ns
        )
        return self._crossed(timed, query, decision, layout, payload, start_ns)

    def _crossed(
        self,
        timed: Callable[..., Timing],
        query: int,
        decision: Decision,
        layout: Layout,
        payload: memoryview,
        start_ns: int,
    ) -> Timing:
        """The reply's timing, or that of the tail that ran here in its place."""
        hedge = self._hedge(decision, layout, payload, start_ns)
        reply = self._exchange(query, layout, payload, start_ns, hedge)
        late = hedge is not None and hedge.started
        if reply is not None:
            timing = timed(reply.arrived_ns, reply, correct=self._kit.correct(query, reply.logits))
            if hedge and late:
                hedge.join()  # it holds the encoder's buffer
            return timing
        here = hedge.join() if hedge and late else self._finish_here(layout, payload)
        return timed(monotonic_ns(), None, here, "fallback")

    def _hedge(
        self, decision: Decision, layout: Layout, payload: memoryview, start_ns: int
    ) -> Hedge | None:
        expected_ns = self._agent.latest_ns(decision) if self._rules.hedge else None
        if expected_ns is None:
            return None
        after_ns = max(0, start_ns + expected_ns - monotonic_ns())
        return Hedge(after_ns, partial(self._finish_here, layout, payload))

    def _exchange(
        self,
        query: int,
        layout: Layout,
        payload: memoryview,
        start_ns: int,
        hedge: Hedge | None,
    ) -> Reply | None:
        if self._link is None:
            return None
        bound_ns = None
        if self._rules.deadline_ns is not None:
            bound_ns = max(_LEAST_BOUND_NS, start_ns + self._rules.deadline_ns - monotonic_ns())
        try:
            return self._link.query(query, layout, payload, bound_ns=bound_ns, hedge=hedge)
        except (WireError, OSError, Overtaken):
            return None

    def _drop(self, due: list[int]) -> None:
        """Record queries that were due and never began; nothing is learnt from them."""
        now_ns = monotonic_ns()
        for due_ns in due:
            timing = Timing(
                *(self._take_number(), "measured", _NO_DECISION, "", now_ns, 0, 0, 0, now_ns),
                status="dropped",
                due_ns=due_ns,
            )
            self._emit(timing.record(**self._identity, steal_ticks=None))

    def _settle_recovery(self) -> None:
        """The probe on a connection that was made again counts as any other."""
        recovery = self._link.recovered() if self._link is not None else None
        if recovery is not None:
            start_ns, reply = recovery
            query, arrived_ns = self._take_number(), reply.arrived_ns
            self._agent.probe_sent(arrived_ns, len(self._probe_payload))
            self._settle(
                Timing(
                    *(query, "probe", _NO_DECISION, "uint8", start_ns, 0, 0, 0, arrived_ns), reply
                )
            )

    def _finish_here(self, layout: Layout, payload: memoryview) -> ServerTimes:
        begun_ns = monotonic_ns()
        held = self._kit.decoder.decode(layout, payload)
        decoded_ns = monotonic_ns()
        self._kit.engine.tail(layout.split, held)
        return ServerTimes(0, decoded_ns - begun_ns, monotonic_ns() - decoded_ns, None, None, b"")

    def _probe(self, link: ServerLink) -> None:
        query, payload = self._take_number(), self._probe_payload
        start_ns = monotonic_ns()
        self._agent.probe_sent(start_ns, len(payload))
        timing = partial(Timing, query, "probe", _NO_DECISION, "uint8", start_ns, 0, 0, 0)
        try:
            reply = link.probe(query, payload)
        except (WireError, OSError):
            self._settle(timing(monotonic_ns(), status="failed"))
        else:
            self._settle(timing(reply.arrived_ns, reply))

    def _settle(self, timing: Timing) -> None:
        self._agent.observe(timing.outcome())
        steal_ticks = self._steal.sample(timing.end_ns)
        self._emit(timing.record(**self._identity, steal_ticks=steal_ticks))

    def _take_number(self) -> int:
        self._numbers += 1
        return self._numbers - 1
