"""Time the policy's decision and its learning, on a whole CPU and on the share that a device has.

Both are of ``dynamic`` by turns, as in a run: it decides, then observes how the query went. Wall
time is the median of single calls; within a quota it leaves out the calls that the quota's end
interrupted, which the processor time and the mean of the wall times tell of.

``python -m tests.bench.decide`` adds to ``bench.json``, prints one line each, and exits with 1
where a decision and its learning together take longer than the bound. The share needs root and a
cgroup that can be written.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from time import perf_counter_ns, thread_time_ns

from testbed.lab import cgroup
from testbed.policy.agent import Agent
from testbed.policy.latency import Candidate
from testbed.policy.policies import make_policy
from testbed.policy.protocol import Outcome

SPLITS = (6, 250)
TURNS, WARM = 5000, 200
SHARE = 0.25  # of one CPU: the virtual lab's device
BOUND_US = 100


def make_agent(splits: int) -> Agent:
    """A new agent of ``dynamic`` among so many candidates, ``local`` one of them."""
    candidates = tuple(
        Candidate(str(i), 10**5 * i, 10**4, 10**4, 10**8 - 10**5 * i, 150_000 - 500 * i, 4_200)
        for i in range(splits - 1)
    )
    local = Candidate("local", 3 * 10**7, 0, 0, 0, 0, 0)
    policy = make_policy("dynamic", [c.split for c in (*candidates, local)], seed=1)
    return Agent(policy, (*candidates, local), 200_000, None)


def measure(splits: int) -> dict[str, dict[str, float]]:
    """Microseconds of one decision and of learning from it: wall median, mean, CPU median."""
    agent = make_agent(splits)
    calls: dict[str, list[tuple[int, int]]] = {"decide": [], "observe": []}
    for n in range(WARM + TURNS):
        now_ns = n * 10**8
        parts = (10**8, 10**6, 10**7, 10**7, 75_000, 6 * 10**7)
        outcome = Outcome(now_ns, ("1", "3")[n % 2], *parts, "ok", "measured")
        calls["decide"].append(_deciding(agent, now_ns))
        calls["observe"].append(_observing(agent, outcome))
    return {name: _told(times[WARM:]) for name, times in calls.items()}


def _deciding(agent: Agent, now_ns: int) -> tuple[int, int]:
    used_ns, begun_ns = thread_time_ns(), perf_counter_ns()
    agent.decide(now_ns)
    ended_ns = perf_counter_ns()
    return ended_ns - begun_ns, thread_time_ns() - used_ns


def _observing(agent: Agent, outcome: Outcome) -> tuple[int, int]:
    used_ns, begun_ns = thread_time_ns(), perf_counter_ns()
    agent.observe(outcome)
    ended_ns = perf_counter_ns()
    return ended_ns - begun_ns, thread_time_ns() - used_ns


def _told(times: list[tuple[int, int]]) -> dict[str, float]:
    walls, used = zip(*times, strict=True)
    return {
        "wall_us": median(walls) / 1000,
        "mean_wall_us": fmean(walls) / 1000,
        "cpu_us": median(used) / 1000,
        "n": len(times),
    }


@contextmanager
def limited(cpus: float) -> Iterator[str | None]:
    """This process within a share of one CPU, as the virtual lab limits a host; why not, if so."""
    tree, name = cgroup.find_tree(), f"tb-bench-{os.getpid()}"
    try:
        reason = cgroup.make(tree, name, cpus, None)
        if reason is None:
            cgroup.move(tree.groups(name), os.getpid())
        yield reason
    finally:
        cgroup.remove(tree.groups(name))


def main() -> None:
    """Print one line a share and number of candidates."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    found = {"1 CPU": {splits: measure(splits) for splits in SPLITS}}
    with limited(SHARE) as reason:
        if reason is None:
            found[f"{SHARE} CPU"] = {splits: measure(splits) for splits in SPLITS}
    whole = found["1 CPU"]
    medians_us = {
        key: {splits: row[name]["wall_us"] for splits, row in whole.items()}
        for key, name in (("decide_us", "decide"), ("learn_us", "observe"))
    }
    file = Path("bench.json")
    others = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**others, **medians_us, "decide": found}, indent=1) + "\n")
    for share, rows in found.items():
        for splits, row in rows.items():
            told = ", ".join(
                f"{name} {t['wall_us']:.1f} µs "
                f"(mean {t['mean_wall_us']:.1f}, CPU {t['cpu_us']:.1f})"
                for name, t in row.items()
            )
            print(
                f"{share}, {splits} candidates: {told}, bound {BOUND_US} µs together (n = {TURNS})"
            )
    if reason is not None:
        print(f"not measured: {reason}")
    rows = [row for rows in found.values() for row in rows.values()]
    most_us = max(sum(told["cpu_us"] for told in row.values()) for row in rows)
    sys.exit(0 if most_us <= BOUND_US else 1)


if __name__ == "__main__":
    main()
