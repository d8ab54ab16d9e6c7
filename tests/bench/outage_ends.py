"""How soon after an outage's planned end the link carries again, for each kind of outage."""

from __future__ import annotations

import time
from bisect import bisect_left
from statistics import median
from typing import Any

from testbed.hosts.clock import measure_offset
from testbed.lab.layout import namespace_of
from testbed.link.tree import OUTAGES
from testbed.orchestrator.link_session import ANSWER_TIMEOUT_S, LinkSession
from testbed.orchestrator.plan import DIRECTIONS, schedule_json
from testbed.traces.trace import SECOND_NS, Schedule
from tests.bench.greedy import Stream

RATE_BPS, OFFERED = 20_000_000, 1.2
# Between two outages more than a second: so long a kernel may wait until it asks again by ARP.
COUNT, SHORTEST_NS, LONGER_NS, BETWEEN_NS = 12, 100_000_000, 37_000_000, 1_200_000_000
LEAD_S, TAIL_S, TIMEOUT_S = 0.3, 1.5, 30.0


def planned() -> Schedule:
    """A constant rate with outages of 0.1 to 0.5 s, none as long as another."""
    outages, t_ns = [], BETWEEN_NS
    for n in range(COUNT):
        outages.append((t_ns, SHORTEST_NS + n * LONGER_NS))
        t_ns = sum(outages[-1]) + BETWEEN_NS
    return Schedule.constant(RATE_BPS, "stop", t_ns).with_outages(outages)


def late_ms(schedule: Schedule, arrivals_ns: list[int], t0_ns: int) -> list[float]:
    """Milliseconds from each outage's end to the first packet that came after its middle.

    Negative where packets came again too soon. Raises ValueError where none came again.
    """
    found = []
    for begun_ns, length_ns in schedule.outages:
        first = bisect_left(arrivals_ns, t0_ns + begun_ns + length_ns // 2)
        if first == len(arrivals_ns):
            raise ValueError(f"nothing came through after the outage at {begun_ns / 1e9:g} s")
        found.append((arrivals_ns[first] - t0_ns - begun_ns - length_ns) / 1e6)
    return found


def ends_of_outages(session: LinkSession) -> dict[str, Any]:
    """By kind of outage: the milliseconds after each planned end, their median and the worst."""
    return {kind: _ends(session, kind) for kind in OUTAGES}


def _ends(session: LinkSession, kind: str) -> dict[str, Any]:
    assert session.lab is not None
    data = session.inventory.hosts["server"].data
    assert data is not None
    role, schedule = session.roles["link"], planned()
    directions = session.link_directions("link", "link")
    message = {
        "type": "start",
        "run_id": kind,
        "schedules": {side: schedule_json(schedule) for side in DIRECTIONS},
        "directions": {side: {**told, "outage": kind} for side, told in directions.items()},
    }
    role.request(message, "started", ANSWER_TIMEOUT_S)
    ends = [namespace_of(session.lab.lab_id, host) for host in ("device", "server")]
    length_s = schedule.duration_ns / SECOND_NS
    offered_bps = OFFERED * RATE_BPS
    with Stream(*ends, str(data.address), offered_bps, length_s + TIMEOUT_S) as stream:
        time.sleep(LEAD_S)  # the queue fills
        offset_ns = measure_offset(role).offset_ns
        t0_ns = role.request({"type": "go"}, "went", ANSWER_TIMEOUT_S)["t0_ns"] - offset_ns
        time.sleep(length_s + TAIL_S)
        session.stop()
        late = late_ms(schedule, stream.arrivals_ns(), t0_ns)
    worst = max(late, key=abs)
    return {"n": len(late), "median_ms": median(late), "worst_ms": worst, "late_ms": late}
