"""Does the link do what it is asked to? Asked before it is used, answered by real traffic.

Unshaped: the path's base delay and capacity. Shaped: UDP and TCP throughput at two or three rates a
direction, the round trip's distribution, loss. A measurement out of bounds is made again, up to
three times: a neighbour's burst passes, a link that is wrong stays wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from statistics import median, quantiles
from typing import Any

from testbed.config.experiment import Experiment
from testbed.config.link_spec import DirectionSpec
from testbed.errors import UserError
from testbed.orchestrator.link_bounds import (
    Asked,
    capacity_fault,
    delay_fault,
    levels,
    loss_fault,
    rate_fault,
    too_slow_guest,
)
from testbed.orchestrator.link_plan import direction_message
from testbed.orchestrator.plan import DIRECTIONS
from testbed.orchestrator.probing import Probers
from testbed.traces.trace import Schedule
from testbed.units import format_rate

ATTEMPTS = 3
CAPACITY_S, TRANSFER_S = 0.3, 0.4
PINGS, PING_INTERVAL_NS = 60, 4_000_000
LOSS_PACKETS = 1000
Result = dict[str, Any]
SetRates = Callable[[Mapping[str, int]], None]


def alike(experiment: Experiment) -> list[tuple[str, ...]]:
    """The experiment's links in groups that differ in their rates alone."""
    groups: dict[str, list[str]] = {}
    for name, link in experiment.links.items():
        rates = {"rate", "trace", "direction"}
        rest = link.model_dump_json(exclude={**dict.fromkeys(DIRECTIONS, rates), "at": True})
        groups.setdefault(rest, []).append(name)
    return [tuple(names) for names in groups.values()]


def compensated(experiment: Experiment, base_rtt_ns: int) -> Experiment:
    """The experiment with the path's own delay taken off where a link asks for that.

    Half the unshaped round trip belongs to each direction. Raises UserError where the path alone
    is slower than the delay asked for.
    """
    own_ns = base_rtt_ns // 2
    links = dict(experiment.links)
    for name, link in experiment.links.items():
        for side in DIRECTIONS if link.delay_compensation else ():
            spec: DirectionSpec = getattr(link, side)
            if not spec.delay:
                continue
            if spec.delay < own_ns:
                raise UserError(
                    f"links.{name}.{side}.delay: expected at least the path's own "
                    f"{own_ns / 1e6:.2f} ms, got {spec.delay / 1e6:.2f} ms; raise it, or leave "
                    "delay_compensation out"
                )
            shorter = spec.model_copy(update={"delay": spec.delay - own_ns})
            links[name] = links[name].model_copy(update={side: shorter})
    return experiment.model_copy(update={"links": links})


def asked_of(
    experiment: Experiment,
    schedules: Mapping[str, Mapping[str, Schedule]],
    names: Iterable[str],
) -> dict[str, Asked]:
    """What each direction of some links, alike but for their rates, is asked to do."""
    links = tuple(names)
    asked = {}
    for side in DIRECTIONS:
        rates = [rate for name in links for _, rate in schedules[name][side].changes]
        link = experiment.links[links[0]]
        spec: DirectionSpec = getattr(link, side)
        message = direction_message(link, side, schedules[links[0]][side], max(rates), side)
        asked[side] = Asked(
            levels_bps=levels(rates),
            max_bps=max(rates),
            delay_ns=spec.delay,
            jitter_ns=spec.jitter,
            # A corrupted packet fails its checksum: to whom it is for, it is lost.
            loss=1 - (1 - spec.mean_loss) * (1 - spec.corrupt),
            loss_spread=_loss_spread(spec),
            orderly=not (spec.mean_loss or spec.corrupt or spec.duplicate or spec.reorder),
            queue_bytes=message["queue_bytes"],
        )
    return asked


def _loss_spread(spec: DirectionSpec) -> float:
    """How much wider than a binomial the count of lost packets spreads where losses come in runs.

    The variance of a mean of correlated trials grows by (1 + r)/(1 - r), r the correlation of
    neighbours; of a two-state chain r = 1 - P(to bad) - P(to good).
    """
    r = spec.loss_correlation
    if spec.gilbert is not None:
        r = max(0.0, 1 - spec.gilbert.to_bad - spec.gilbert.to_good)
    return (1 + r) / (1 - r) if r < 1 else float("inf")


class LinkCheck:
    """One verification, in two steps around the shaping; ``document`` is its record.

    Attributes:
        faults: one line for everything that is not as asked.
    """

    def __init__(self, probers: Probers, guest_carries_bps: int | None = None) -> None:
        """``guest_carries_bps``: of a user-mode router, which faults of rates then name."""
        self._probers = probers
        self._guest_carries_bps = guest_carries_bps
        self._base_ns: list[int] = []
        self.faults: list[str] = []
        self.document: Result = {"links": {}, "faults": self.faults}

    @property
    def base_rtt_ns(self) -> int:
        """Median round trip of the path as it is, 0 where no ping came back."""
        return round(median(self._base_ns)) if self._base_ns else 0

    def unshaped(self, max_bps: Mapping[str, int]) -> None:
        """Measure the path as it is: base delay, and capacity against each highest rate."""
        base = self._probers.ping(PINGS, PING_INTERVAL_NS)
        self._base_ns = base["rtts_ns"]
        capacity = {
            side: self._attempt(
                partial(self._probers.tcp, side, CAPACITY_S),
                partial(_judge_capacity, side, rate, too_slow_guest(rate, self._guest_carries_bps)),
            )
            for side, rate in max_bps.items()
        }
        self.document["unshaped"] = {"ping": summary(base), "capacity": capacity}

    def shaped(self, name: str, asked: Mapping[str, Asked], set_rates: SetRates) -> None:
        """Measure the shaped path; ``set_rates`` sets both directions to constant rates."""
        highest = {side: a.max_bps for side, a in asked.items()}
        found: Result = {"asked": {side: asdict(a) for side, a in asked.items()}, "loss": {}}
        self.document["links"][name] = found
        set_rates(highest)
        judge = partial(_judge_ping, self._base_ns, asked)
        found["ping"] = self._attempt(partial(self._probers.ping, PINGS, PING_INTERVAL_NS), judge)
        found["rates"] = {side: [] for side in asked}
        rtt_ns = sum(a.delay_ns for a in asked.values())
        for side, own in asked.items():
            for rate_bps in own.levels_bps:
                set_rates(highest | {side: rate_bps})
                found["rates"][side].append(self._level(side, own, rate_bps, rtt_ns))
            if own.loss:
                found["loss"][side] = self._attempt(
                    partial(self._probers.lossy, side, own.max_bps, LOSS_PACKETS),
                    partial(_judge_loss, side, own),
                )

    def _level(self, side: str, asked: Asked, rate_bps: int, rtt_ns: int) -> Result:
        what = f"{side} at {format_rate(rate_bps)}"
        udp = partial(self._probers.udp, side, rate_bps, TRANSFER_S)
        slow = too_slow_guest(rate_bps, self._guest_carries_bps)
        judge = partial(_judge_rate, f"{what}, UDP", rate_bps, asked.loss, slow)
        level: Result = {"rate_bps": rate_bps, "udp": self._attempt(udp, judge)}
        if asked.orderly:  # else TCP tells of its congestion control, not of the link
            window_bytes = round(rate_bps / 8 * rtt_ns / 1e9) + asked.queue_bytes // 4
            # Half of it is slow start, which takes some round trips.
            seconds = TRANSFER_S + 16 * rtt_ns / 1e9
            tcp = partial(self._probers.tcp, side, seconds, window_bytes)
            judge = partial(_judge_rate, f"{what}, TCP", rate_bps, asked.loss, slow)
            level["tcp"] = self._attempt(tcp, judge)
        return level

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


def _judge_capacity(side: str, max_bps: int, slow: str | None, found: Result) -> str | None:
    return capacity_fault(f"{side} capacity", max_bps, found["rate_bps"], slow)


def _judge_rate(
    what: str, rate_bps: int, loss: float, slow: str | None, found: Result
) -> str | None:
    fault = rate_fault(what, rate_bps, found["rate_bps"], loss)
    return f"{fault}; {slow}" if fault and slow else fault


def _judge_loss(side: str, asked: Asked, found: Result) -> str | None:
    return loss_fault(
        f"{side} loss", found["sent"], found["arrived"], asked.loss, asked.loss_spread
    )


def _judge_ping(base_ns: list[int], asked: Mapping[str, Asked], found: Result) -> str | None:
    sides = tuple(asked.values())
    through = math.prod(1 - side.loss for side in sides)
    spread = max(side.loss_spread for side in sides)
    arrived = len(found["rtts_ns"])
    return delay_fault(base_ns, found["rtts_ns"], sides) or loss_fault(
        "pings", found["sent"], arrived, 1 - through, spread
    )


def summary(pings: Result) -> Result:
    """Round trips as ``{"sent", "arrived", "p10_ns", "p50_ns", "p90_ns", "max_ns"}``."""
    rtts = sorted(pings["rtts_ns"])
    told: Result = {"sent": pings["sent"], "arrived": len(rtts)}
    if len(rtts) >= 2:
        cuts = quantiles(rtts, n=10, method="inclusive")
        told |= {"p10_ns": round(cuts[0]), "p50_ns": round(cuts[4]), "p90_ns": round(cuts[8])}
        told["max_ns"] = rtts[-1]
    return told
