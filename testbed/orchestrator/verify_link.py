"""Does the link do what it is asked to? Asked before it is used, answered by real traffic.

Unshaped: the path's base delay and capacity. Shaped: UDP and TCP throughput at two or three rates a
direction, the round trip's distribution, loss. A measurement out of bounds is made again, up to
three times: a neighbour's burst passes, a link that is wrong stays wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import quantiles
from typing import Any

from testbed.config.experiment import DirectionSpec, Experiment
from testbed.hosts.connection import each
from testbed.hosts.role import RoleProcess
from testbed.orchestrator.link_bounds import (
    Asked,
    capacity_fault,
    delay_fault,
    levels,
    loss_fault,
    rate_fault,
)
from testbed.orchestrator.plan import DIRECTIONS, schedule_json
from testbed.orchestrator.probing import Probers
from testbed.traces.trace import Schedule

ATTEMPTS = 3
CAPACITY_S, TRANSFER_S = 0.3, 0.4
PINGS, PING_INTERVAL_NS = 60, 4_000_000
LOSS_PACKETS = 1000
LINK_TIMEOUT_S = 30.0
Result = dict[str, Any]


def asked_of(
    experiment: Experiment, schedules: Mapping[str, Mapping[str, Schedule]]
) -> dict[str, Asked]:
    """What each direction is asked to do, over all the experiment's links."""
    first = next(iter(experiment.links.values()))
    asked = {}
    for side in DIRECTIONS:
        rates = [rate for s in schedules.values() for _, rate in s[side].changes]
        spec: DirectionSpec = getattr(first, side)
        asked[side] = Asked(
            levels(rates), max(rates), spec.delay, spec.jitter, spec.loss, spec.queue
        )
    return asked


class LinkCheck:
    """One verification, in two steps around the shaping; ``document`` is its record.

    Attributes:
        faults: one line for everything that is not as asked.
    """

    def __init__(self, probers: Probers, asked: Mapping[str, Asked]) -> None:
        self._probers = probers
        self._asked = asked
        self._base_ns: list[int] = []
        self.faults: list[str] = []
        self.document: Result = {"asked": {side: vars(a) for side, a in asked.items()}}

    def unshaped(self) -> None:
        """Measure the path as it is: base delay, capacity."""
        base = self._probers.ping(PINGS, PING_INTERVAL_NS)
        self._base_ns = base["rtts_ns"]
        capacity = {
            side: self._attempt(
                partial(self._probers.tcp, side, CAPACITY_S),
                partial(_judge_capacity, side, self._asked[side].max_bps),
            )
            for side in DIRECTIONS
        }
        self.document["unshaped"] = {"ping": summary(base), "capacity": capacity}

    def shaped(self, link_roles: Mapping[str, RoleProcess], sides: Mapping[str, Any]) -> None:
        """Measure the shaped path; ``sides`` maps each link role to its directions."""
        self._set(link_roles, sides, {s: a.max_bps for s, a in self._asked.items()})
        self.document["ping"] = self._attempt(self._ping, self._judge_ping)
        self.document["rates"] = {side: [] for side in DIRECTIONS}
        self.document["loss"] = {}
        for side, asked in self._asked.items():
            for rate_bps in asked.levels_bps:
                rates = {s: a.max_bps for s, a in self._asked.items()} | {side: rate_bps}
                self._set(link_roles, sides, rates)
                self.document["rates"][side].append(self._level(side, asked, rate_bps))
            if asked.loss:
                self.document["loss"][side] = self._attempt(
                    partial(self._probers.lossy, side, asked.max_bps, LOSS_PACKETS),
                    partial(_judge_loss, side, asked.loss),
                )
        self.document["faults"] = self.faults

    @staticmethod
    def _set(
        link_roles: Mapping[str, RoleProcess], sides: Mapping[str, Any], rates: Mapping[str, int]
    ) -> None:
        def start(name: str) -> None:
            wanted = {
                s: schedule_json(Schedule.constant(rates[s], end="hold")) for s in sides[name]
            }
            message = {"type": "start", "run_id": "verify", "schedules": wanted}
            link_roles[name].request(message, "started", LINK_TIMEOUT_S)

        each("set the link's rates", {name: partial(start, name) for name in link_roles})

    def _level(self, side: str, asked: Asked, rate_bps: int) -> Result:
        what = f"{side} at {rate_bps / 1e6:.3g} Mbit/s"

        def judge(kind: str) -> Callable[[Result], str | None]:
            return lambda found: rate_fault(
                f"{what}, {kind}", rate_bps, found["rate_bps"], asked.loss
            )

        level: Result = {
            "rate_bps": rate_bps,
            "udp": self._attempt(
                partial(self._probers.udp, side, rate_bps, TRANSFER_S), judge("UDP")
            ),
        }
        if not asked.loss:  # TCP under loss measures its congestion control
            rtt_s = sum(a.delay_ns for a in self._asked.values()) / 1e9
            window_bytes = round(rate_bps / 8 * rtt_s) + asked.queue_bytes // 4
            # Half of it is slow start, which takes some round trips.
            seconds = TRANSFER_S + 16 * rtt_s
            transfer = partial(self._probers.tcp, side, seconds, window_bytes)
            level["tcp"] = self._attempt(transfer, judge("TCP"))
        return level

    def _ping(self) -> Result:
        return self._probers.ping(PINGS, PING_INTERVAL_NS)

    def _judge_ping(self, found: Result) -> str | None:
        through = 1.0
        for asked in self._asked.values():
            through *= 1 - asked.loss
        return delay_fault(self._base_ns, found["rtts_ns"], self._asked.values()) or loss_fault(
            "pings", found["sent"], len(found["rtts_ns"]), 1 - through
        )

    def _attempt(
        self, measure: Callable[[], Result], judge: Callable[[Result], str | None]
    ) -> list[Result]:
        """Measure until it is as asked, at most three times; every attempt is kept."""
        attempts: list[Result] = []
        fault: str | None = None
        for _ in range(ATTEMPTS):
            found = measure()
            fault = judge(found)
            attempts.append((summary(found) if "rtts_ns" in found else found) | {"fault": fault})
            if fault is None:
                return attempts
        assert fault is not None
        self.faults.append(fault)
        return attempts


def _judge_capacity(side: str, max_bps: int, found: Result) -> str | None:
    return capacity_fault(f"{side} capacity", max_bps, found["rate_bps"])


def _judge_loss(side: str, loss: float, found: Result) -> str | None:
    return loss_fault(f"{side} loss", found["sent"], found["arrived"], loss)


def summary(pings: Result) -> Result:
    """Round trips as ``{"sent", "arrived", "p10_ns", "p50_ns", "p90_ns", "max_ns"}``."""
    rtts = sorted(pings["rtts_ns"])
    told: Result = {"sent": pings["sent"], "arrived": len(rtts)}
    if len(rtts) >= 2:
        cuts = quantiles(rtts, n=10, method="inclusive")
        told |= {"p10_ns": round(cuts[0]), "p50_ns": round(cuts[4]), "p90_ns": round(cuts[8])}
        told["max_ns"] = rtts[-1]
    return told
