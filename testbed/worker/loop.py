"""One run on the device: queries one after another, each with its record."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import monotonic_ns
from typing import Any, Literal

from torch import Tensor

from testbed.model.engine import Engine
from testbed.model.table import LOCAL
from testbed.policy.agent import Agent, Decision
from testbed.worker.client import Reply, ServerLink
from testbed.worker.encoding import Decoder, Encoder
from testbed.worker.host import StealMeter
from testbed.worker.layout import Layout, ServerTimes
from testbed.worker.timing import Timing
from testbed.worker.wire import WireError


@dataclass(frozen=True)
class Equipment:
    """What the device keeps for the whole campaign; ``outputs`` is the length of all logits."""

    engine: Engine
    layouts: dict[str, Layout]
    candidates: tuple[str, ...]
    encoder: Encoder
    decoder: Decoder
    inputs: tuple[Tensor, ...]
    batch: int
    outputs: int


@contextmanager
def no_collection() -> Iterator[None]:
    """Collect garbage now and not again before the end: a collection is no part of a query."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


class Loop:
    """Queries of one run in a closed loop; every query due leaves a record.

    ``link`` is None where the run has no server: then only ``local`` may be chosen. A query
    whose exchange fails is finished on the device from what it holds, with status ``fallback``.
    ``emit`` is given each record after its clock has stopped.
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
    ) -> None:
        self._kit = equipment
        self._agent = agent
        self._link = link
        self._probe_payload = probe
        self._identity: dict[str, Any] = {
            "run_id": run_id,
            "device": device,
            "batch": equipment.batch,
            "policy": policy,
        }
        self._emit = emit
        self._steal = StealMeter()
        self._numbers = 0

    def warm_up(self, queries: int, stopping: Callable[[], bool]) -> None:
        """At least ``queries`` queries and each candidate once, outside the policy."""
        splits = self._kit.candidates if self._link else (LOCAL,)
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
        while (
            (now_ns := monotonic_ns()) < begun_ns + duration_ns
            and not self._agent.finished
            and not stopping()
        ):
            if self._link is not None and self._agent.probe_due(now_ns):
                self._probe(self._link)
            else:
                queries += self._query("measured") == "measured"
        return {
            "queries": queries,
            "t0_ns": begun_ns,
            "t1_ns": monotonic_ns(),
            "steal_share": self._steal.share(),
        }

    def _query(
        self, kind: Literal["warmup", "measured"], decision: Decision | None = None
    ) -> Literal["warmup", "measured"]:
        kit, query = self._kit, self._take_number()
        x = kit.inputs[query % len(kit.inputs)]
        start_ns = monotonic_ns()
        if decision is None:
            decision = self._agent.decide(start_ns)
        split = decision.split
        decided_ns = monotonic_ns()
        intermediate = kit.engine.head(split, x)
        headed_ns = monotonic_ns()
        kind = "warmup" if decision.settling else kind
        times = (start_ns, decided_ns - start_ns, headed_ns - decided_ns)
        if split == LOCAL:
            self._settle(Timing(query, kind, decision, "", *times, 0, headed_ns))
            return kind
        layout = kit.layouts[split]
        payload = kit.encoder.encode(split, intermediate)
        encode_ns = monotonic_ns() - headed_ns
        reply = self._exchange(query, layout, payload)
        timing = partial(Timing, query, kind, decision, layout.encoding, *times, encode_ns)
        if reply is not None:
            self._settle(timing(reply.arrived_ns, reply))
        else:
            here = self._finish_here(layout, payload)
            self._settle(timing(monotonic_ns(), None, here, "fallback"))
        return kind

    def _exchange(self, query: int, layout: Layout, payload: memoryview) -> Reply | None:
        if self._link is None:
            return None
        try:
            return self._link.query(query, layout, payload)
        except (WireError, OSError):
            return None

    def _finish_here(self, layout: Layout, payload: memoryview) -> ServerTimes:
        begun_ns = monotonic_ns()
        held = self._kit.decoder.decode(layout, payload)
        decoded_ns = monotonic_ns()
        self._kit.engine.tail(layout.split, held)
        return ServerTimes(0, decoded_ns - begun_ns, monotonic_ns() - decoded_ns, None, None, b"")

    def _probe(self, link: ServerLink) -> None:
        query, payload = self._take_number(), self._probe_payload
        nothing = Decision("", None, 1.0, None, False)
        start_ns = monotonic_ns()
        self._agent.probe_sent(start_ns, len(payload))
        timing = partial(Timing, query, "probe", nothing, "uint8", start_ns, 0, 0, 0)
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
