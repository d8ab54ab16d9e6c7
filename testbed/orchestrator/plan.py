"""The plan: experiment × split table → runs with factors, seeds, order and stable names. Pure."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

from testbed.config.experiment import EngineSpec, Experiment
from testbed.config.link_spec import DirectionSpec
from testbed.errors import UserError
from testbed.model.table import LOCAL, OFFLOAD, SplitTable
from testbed.traces.trace import BandwidthTrace, Schedule

DIRECTIONS = ("uplink", "downlink")
TRACE_DIRECTION = {"uplink": "up", "downlink": "down"}
_TRACE_KIND = {"up": "an uplink", "down": "a downlink"}

# Between the runs: fresh connections, warm-up, clocks, files. Measured on the virtual lab.
_OVERHEAD_PER_RUN_NS = 3 * 10**9
# How often a run is repeated; each repetition meets the same condition.
_NOT_CONDITION = {"trials", "repeat_disturbed"}


@dataclass(frozen=True)
class PlannedRun:
    """One policy under one condition; everything that decides its outcome but the hosts."""

    run_id: str
    index: int
    link: str
    load: str
    policy: str
    trial: int
    seed: int
    batch: int
    duration_ns: int


@dataclass(frozen=True)
class Plan:
    """All runs of an experiment in the order they are run."""

    runs: tuple[PlannedRun, ...]
    candidates: tuple[str, ...]
    # link name → direction, a further router's with its suffix → schedule
    schedules: Mapping[str, Mapping[str, Schedule]]

    @property
    def estimated_ns(self) -> int:
        """About how long the runs take, without set-up and profile."""
        return sum(run.duration_ns + _OVERHEAD_PER_RUN_NS for run in self.runs)


def make_schedules(
    experiment: Experiment,
    traces: Mapping[str, BandwidthTrace],
    routers: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Schedule]]:
    """Schedules of every link, from traces keyed by their path as written in the experiment.

    ``routers``: each router's name and what its directions are named by, such as ``-north``; left
    out where only the rates matter. Raises UserError where a link is said to be another one at a
    router that is no further one.
    """
    own = {
        name: {side: _schedule(experiment, traces, name, side) for side in DIRECTIONS}
        for name in experiment.links
    }
    further = [router for router, suffix in (routers or {}).items() if suffix]
    for name, link in experiment.links.items():
        wrong = [router for router in link.at if router not in further]
        if wrong and routers is not None:
            raise UserError(
                f"links.{name}.at: {wrong[0]} is none of the inventory's further routers "
                f"({', '.join(further) or 'it has none'}); the first has {name} itself"
            )
    return {
        name: {
            side + suffix: own[link.at.get(router, name)][side]
            for router, suffix in (routers or {"": ""}).items()
            for side in DIRECTIONS
        }
        for name, link in experiment.links.items()
    }


def _schedule(
    experiment: Experiment, traces: Mapping[str, BandwidthTrace], name: str, side: str
) -> Schedule:
    link = experiment.links[name]
    spec: DirectionSpec = getattr(link, side)
    outages = [(outage.at, outage.length) for outage in link.outages]
    if spec.rate is not None:
        if not outages:
            return Schedule.constant(spec.rate)
        # As long as the run, so that there is a time at which an outage can be.
        lasting = Schedule.constant(spec.rate, duration_ns=experiment.run.duration)
        return _with_outages(lasting, outages, name)
    trace = traces[str(spec.trace)]
    own = TRACE_DIRECTION[side]
    taken, used_as = own, None
    if spec.direction == f"as-{side}":
        taken = "down" if own == "up" else "up"
        used_as = f"{side} from {_TRACE_KIND[taken]} trace"
    schedule = trace.schedule(taken, link.step, end=link.end, outage=link.outage is not None)
    return _with_outages(replace(schedule, used_as=used_as), outages, name)


def _with_outages(schedule: Schedule, outages: list[tuple[int, int]], link: str) -> Schedule:
    try:
        return schedule.with_outages(outages)
    except UserError as error:
        raise UserError(f"links.{link}.{error}") from error


def expand_policies(experiment: Experiment, table: SplitTable) -> tuple[str, ...]:
    """The policies by name, ``static:*`` expanded; UserError for a split that is no candidate."""
    candidates = table.candidates(experiment.candidates)
    for policy in experiment.every_policy:
        split = policy.removeprefix("static:") if policy.startswith("static:") else "*"
        if split != "*" and split not in candidates:
            raise UserError(
                f"policies: {policy}: split {split} is not a candidate of {table.model}; "
                f"candidates are {', '.join(candidates)}"
            )
    names: list[str] = []
    for policy in experiment.policies:
        if policy == "static:*":
            names += [f"static:{c}" for c in candidates if c not in (LOCAL, OFFLOAD)]
        else:
            names.append(policy)
    return tuple(dict.fromkeys(names))


def check_fleets(experiment: Experiment, devices: Sequence[str]) -> None:
    """UserError unless every fleet gives every device of the inventory, and no other, a policy."""
    for name, fleet in experiment.fleets.items():
        if wrong := set(fleet) ^ set(devices):
            raise UserError(
                f"fleets.{name}: expected a policy for each device of the inventory "
                f"({', '.join(devices)}); {min(wrong)} is "
                f"{'none of them' if min(wrong) in fleet else 'left out'}"
            )


def _crossed(experiment: Experiment, table: SplitTable) -> dict[tuple[int, str, str], list[str]]:
    """(trial, link, load) → the policies that some cross asks for there."""
    expand_policies(experiment, table)  # all are checked, whether or not a cross names them
    wanted: dict[tuple[int, str, str], list[str]] = {}
    for cross in experiment.crosses:
        names = cross.policies or experiment.policies
        policies = expand_policies(experiment.model_copy(update={"policies": names}), table)
        for block in product(
            range(cross.trials or experiment.run.trials),
            cross.links or experiment.links,
            cross.loads or experiment.loads,
        ):
            there = wanted.setdefault(block, [])
            there += [policy for policy in policies if policy not in there]
    return wanted


def make_plan(
    experiment: Experiment,
    table: SplitTable,
    traces: Mapping[str, BandwidthTrace],
    routers: Mapping[str, str] | None = None,
) -> Plan:
    """Every link × load × trial is a block; blocks and the policies within are shuffled by seed.

    ``routers`` as :func:`make_schedules` takes them.
    """
    schedules = make_schedules(experiment, traces, routers)
    shuffle = random.Random(experiment.seed).shuffle
    wanted = _crossed(experiment, table)
    blocks = list(wanted)
    shuffle(blocks)
    runs: list[PlannedRun] = []
    for block in blocks:
        trial, link, load = block
        order = wanted[block]
        shuffle(order)
        condition = _digest(experiment, load, schedules[link])
        for policy in order:
            run = PlannedRun(
                run_id=f"{link}.{load}.{policy.replace(':', '-')}.t{trial}.{condition}",
                index=len(runs),
                link=link,
                load=load,
                policy=policy,
                trial=trial,
                # One seed a block: each policy meets the same inputs and the same load.
                seed=_stable_int(experiment.seed, link, load, trial),
                batch=experiment.batch,
                duration_ns=experiment.run.duration,
            )
            runs.append(run)
    return Plan(tuple(runs), table.candidates(experiment.candidates), schedules)


def chosen(plan: Plan, only: Sequence[str]) -> Plan:
    """The plan cut to the runs that a pattern names, in the same order; all without a pattern.

    A pattern is a run id or a policy, with ``*`` and ``?``; UserError where one names nothing.
    """
    for pattern in only:
        if not any(_named(run, pattern) for run in plan.runs):
            raise UserError(
                f"--only {pattern}: names no run; `testbed plan` shows them, "
                f"policies are {', '.join(sorted({run.policy for run in plan.runs}))}"
            )
    runs = (run for run in plan.runs if not only or any(_named(run, p) for p in only))
    return replace(plan, runs=tuple(runs))


def _named(run: PlannedRun, pattern: str) -> bool:
    return fnmatchcase(run.run_id, pattern) or fnmatchcase(run.policy, pattern)


def schedule_json(schedule: Schedule) -> dict[str, Any]:
    """One direction's schedule as the link role takes it and ``plan.json`` keeps it."""
    return {
        "changes": [list(change) for change in schedule.changes],
        "duration_ns": schedule.duration_ns,
        "end": schedule.end,
        "floor_bps": schedule.floor_bps,
        "floored_ns": schedule.floored_ns,
        "outages": [list(outage) for outage in schedule.outages],
        "as": schedule.used_as,
    }


def _digest(experiment: Experiment, load: str, schedules: Mapping[str, Schedule]) -> str:
    """Six hex digits that change with the condition, and not with where its files lie."""
    condition = [
        {side: schedule_json(schedule) for side, schedule in schedules.items()},
        experiment.loads[load].model_dump(mode="json"),
        *(
            getattr(experiment, part).model_dump(mode="json", exclude=_NOT_CONDITION)
            for part in ("model", "encoding", "run", "arrivals", "probe")
        ),
        experiment.batch,
        experiment.seed,
        # Where the images lie is no condition; a campaign that goes on has its own copy.
        *([experiment.engine.model_dump()] if experiment.engine != EngineSpec() else []),
        *(["real inputs"] if experiment.inputs != "synthetic" else []),
    ]
    return hashlib.sha256(json.dumps(condition, sort_keys=True).encode()).hexdigest()[:6]


def _stable_int(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "little")
