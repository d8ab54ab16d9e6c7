"""Whether a finished run can be trusted, from what its roles and hosts reported. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from testbed.traces.trace import Schedule

# A change that comes later than this share of a step is not the trace any more.
LATE_SHARE_OF_STEP = 0.10
# Beyond this share of time stolen by neighbours, latencies say more about them than about us.
STEAL_SHARE = 0.05
NOT_OK_SHARE = 0.01
# A clock that moves this much between the start and the end of a run runs otherwise.
FREQUENCY_SHARE = 0.10
# A CPU that warms up by more within a run, or is hotter at its end, may slow itself down.
CELSIUS_RISE, CELSIUS_MOST = 10.0, 85.0
# Others that keep more of the CPUs busy before a run take them from its roles too.
BUSY_SHARE = 0.5
# As much of a machine's CPU time more than usual, and a run was not alone: one of two to five CPUs.
OTHERS_SHARE = 0.20
# Beyond this, device and router cannot be set on one axis of 100 ms steps.
CLOCK_BOUND_NS = 5_000_000
# Beyond this a split was mispredicted although its own queries correct the profile.
STALE_SHARE = 0.25
# After an outage TCP sends again at intervals of its own, and a connection is made anew.
RECOVERY_NS = 1_000_000_000
_STALE_QUERIES = 8  # fewer tell nothing about a median


@dataclass(frozen=True)
class Judgement:
    """``valid`` or ``degraded`` with a one-line reason for each doubt.

    Attributes:
        disturbed: whether something from outside did it, so that a repetition may be better.
    """

    validity: str
    reasons: tuple[str, ...]
    disturbed: bool


def judge(
    done: Mapping[str, Any],
    step_ns: int,
    link_roles: Iterable[str],
    not_ok: Mapping[str, int],
    *,
    hosts: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] | None = None,
    clock_bounds_ns: Mapping[str, int] | None = None,
    others: Mapping[str, tuple[float, float]] | None = None,
    off_predicted: Mapping[str, Sequence[float]] | None = None,
) -> Judgement:
    """What speaks against a run.

    Args:
        done: each role's last message.
        step_ns: of the link's schedule.
        link_roles: names of the link roles in ``done``.
        not_ok: of each device role, measured queries that fell back or failed, those that an
            outage explains apart.
        hosts: each host's environment before and after.
        clock_bounds_ns: how far off each host's clock offset may be.
        others: share of each machine's CPU time that others than the testbed took in the run, and
            the usual one.
        off_predicted: measured ÷ predicted times of the run's queries, by split.
    """
    outside = [
        *_late(done, step_ns, link_roles),
        *(reason for role in not_ok for reason in _steal(role, done.get(role, {}))),
        *(reason for name, pair in (hosts or {}).items() for reason in _drift(name, *pair)),
        *_others(others or {}),
        *_clocks(clock_bounds_ns or {}),
    ]
    inside = list(_stale(off_predicted or {}))
    for role, count in not_ok.items():
        inside += _faults(role, done.get(role, {}), count)
    reasons = (*outside, *inside)
    return Judgement("degraded" if reasons else "valid", reasons, bool(outside))


def unexplained(dues_ns: Iterable[int], schedules: Collection[Schedule]) -> int:
    """How many of the queries due at these times of the run no outage explains.

    An outage that the experiment asked for explains those due in it, or soon after its end.
    """
    return sum(not any(_cut(due_ns, schedule) for schedule in schedules) for due_ns in dues_ns)


def _cut(due_ns: int, schedule: Schedule) -> bool:
    at_ns = due_ns % schedule.duration_ns if schedule.end == "loop" else due_ns
    return any(
        begun_ns <= at_ns < begun_ns + length_ns + RECOVERY_NS
        for begun_ns, length_ns in schedule.outages
    )


def _late(done: Mapping[str, Any], step_ns: int, link_roles: Iterable[str]) -> Iterator[str]:
    for role in link_roles:
        late_ns = done.get(role, {}).get("late_p99_ns") or 0
        if late_ns > LATE_SHARE_OF_STEP * step_ns:
            yield (
                f"{role}: rate changes came up to {late_ns / 1e6:.1f} ms late (p99), more than "
                f"{LATE_SHARE_OF_STEP:.0%} of a {step_ns / 1e6:.0f} ms step"
            )


def _steal(role: str, device: Mapping[str, Any]) -> Iterator[str]:
    steal = device.get("steal_share") or 0.0
    if steal > STEAL_SHARE:
        yield f"{role}: neighbours took {steal:.1%} of CPU time (bound {STEAL_SHARE:.0%})"


def _faults(role: str, device: Mapping[str, Any], not_ok: int) -> Iterator[str]:
    queries = device.get("queries", 0)
    if not_ok > NOT_OK_SHARE * queries:
        yield f"{role}: {not_ok} of {queries} queries fell back to the device or failed"
    if device.get("policy_fault"):
        yield f"{role}: policy: fell back to local after an error: {device['policy_fault']}"


def _drift(host: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    first, last = before.get("frequency_hz"), after.get("frequency_hz")
    if first and last and abs(last / first - 1) > FREQUENCY_SHARE:
        yield (
            f"{host}: the CPU went from {first / 1e9:.2f} to {last / 1e9:.2f} GHz; "
            "set the governor to performance, or cool it"
        )
    warm, hot = before.get("celsius"), after.get("celsius")
    if warm is not None and hot is not None and (hot - warm > CELSIUS_RISE or hot > CELSIUS_MOST):
        yield (
            f"{host}: the CPU went from {warm:.0f} to {hot:.0f} °C (bounds {CELSIUS_RISE:.0f} °C "
            f"more, and {CELSIUS_MOST:.0f} °C); cool it, or let it warm up before"
        )
    busy = before.get("busy_share") or 0.0
    if busy > BUSY_SHARE:
        yield (
            f"{host}: {busy:.0%} of CPU time was in use before the run began "
            f"(bound {BUSY_SHARE:.0%}); end what runs there"
        )
    if before.get("governor") != after.get("governor"):
        yield f"{host}: the governor went from {before['governor']} to {after['governor']}"
    if before.get("boot_id") != after.get("boot_id"):
        yield f"{host}: was restarted during the run"


def _others(others: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    for machine, (share, usual) in others.items():
        if share - usual > OTHERS_SHARE:
            yield (
                f"{machine}: others took {share:.0%} of CPU time during the run, usually "
                f"{usual:.0%} (bound {OTHERS_SHARE:.0%} more); end what runs there"
            )


def _clocks(bounds_ns: Mapping[str, int]) -> Iterator[str]:
    for host, bound_ns in bounds_ns.items():
        if bound_ns > CLOCK_BOUND_NS:
            yield (
                f"{host}: its clock is known to {bound_ns / 1e6:.1f} ms only "
                f"(bound {CLOCK_BOUND_NS / 1e6:.0f} ms)"
            )


def _stale(off_predicted: Mapping[str, Sequence[float]]) -> Iterator[str]:
    for split, ratios in off_predicted.items():
        if len(ratios) < _STALE_QUERIES:
            continue
        off = median(ratios) - 1
        if abs(off) > STALE_SHARE:
            yield (
                f"profile: stale for {split}: queries take {abs(off):.0%} "
                f"{'more' if off > 0 else 'less'} than predicted; profile again"
            )
