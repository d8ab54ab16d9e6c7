"""A hundred outages of a real connection, and long ones: what is lost, how soon is it back?

``python -m tests.bench.outages [OUTAGES]`` runs the device's loop against a real service on
loopback while the server is killed and started again, or silent for a while, by turns. Prints how
long after the server's return the first query crossed again. Exit status 1 if a query was lost, a
run stuck, or a long outage's first query took more than a second. The link's own outages are
``experiments/outage.yaml``.
"""

from __future__ import annotations

import random
import sys
from contextlib import closing
from dataclasses import dataclass
from queue import Empty
from statistics import median, quantiles
from time import monotonic_ns, sleep

from testbed.worker.arrivals import ArrivalRule
from testbed.worker.equipment import Rules
from tests.unit.device_runs import MS, Run, Server, status

SHORT_S, LONG_S, LONG_OUTAGES, BOUND_MS = (0.02, 0.5), 5.0, 3, 1_000.0
INTERVAL_NS, DEADLINE_NS = 5 * MS, 100 * MS
CROSSED = status("ok")


@dataclass(frozen=True)
class Outage:
    """One outage: how the server was gone, for how long, and how soon a query crossed again."""

    kind: str
    length_s: float
    again_ms: float


def outage(server: Server, run: Run, kind: str, length_s: float) -> Outage:
    """Make one; raises Empty where the run is stuck."""
    run.until(CROSSED)
    if kind == "killed":
        server.kill()
    else:
        server.answering.clear()
    run.until(status("fallback"))
    sleep(length_s)  # the outage itself
    if kind == "killed":
        server.start()
    else:
        server.answering.set()
    back_ns = monotonic_ns()
    first = run.until(lambda record: CROSSED(record) and record["t_start_ns"] > back_ns)
    return Outage(kind, length_s, (first["t_start_ns"] + first["e2e_ns"] - back_ns) / MS)


def told(name: str, outages: list[Outage]) -> float:
    """Print one line; returns the longest recovery in ms."""
    again = [o.again_ms for o in outages]
    p95 = quantiles(again, n=20)[-1] if len(again) >= 20 else max(again)
    print(f"{name:22s}{len(again):5d}{median(again):10.0f}{p95:10.0f}{max(again):10.0f}")
    return max(again)


def main(count: int) -> int:
    """Make them all; the exit status."""
    rng, found, long, stuck = random.Random(1), [], [], 0
    rules = Rules(ArrivalRule("periodic", INTERVAL_NS, "queue"), deadline_ns=DEADLINE_NS)
    with closing(Server()) as server, closing(Run(server, "static:0", rules)) as run:
        try:
            for n in range(count):
                kind = "killed" if n % 2 else "silent"
                found.append(outage(server, run, kind, rng.uniform(*SHORT_S)))
            long = [outage(server, run, "killed", LONG_S) for _ in range(LONG_OUTAGES)]
        except Empty:
            stuck = 1
    due = [record for record in run.all if record["kind"] == "measured"]
    lost = run.done["arrived"] - len(due)
    counts = {s: sum(r["status"] == s for r in due) for s in ("ok", "fallback", "dropped")}
    print(f"{len(due)} queries due: {counts}; lost {lost}, stuck runs {stuck}")
    if stuck:
        return 1
    print(f"{'first crossed again, ms':22s}{'n':>4s}{'median':>10s}{'p95':>10s}{'most':>10s}")
    for kind in ("silent", "killed"):
        told(f"{kind} for 0.02-0.5 s", [o for o in found if o.kind == kind])
    most_ms = told(f"killed for {LONG_S:.0f} s", long)
    return int(lost != 0 or most_ms > BOUND_MS)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
