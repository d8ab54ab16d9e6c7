"""What device and load role are told of policies and of the load, made before anything starts."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from testbed.config.experiment import Experiment
from testbed.config.load_spec import LoadSpec
from testbed.errors import UserError
from testbed.orchestrator.plan import schedule_json
from testbed.policy.user import PREFIX, Source, check, find_source
from testbed.traces.trace import Schedule

# A load begins a little before the queries and ends after them.
_MARGIN_NS = 60 * 10**9


def user_policies(names: Iterable[str], candidates: tuple[str, ...]) -> dict[str, Source]:
    """The source of every user's policy, tried once each; raises UserError for a fault."""
    sources = {name: find_source(name) for name in names if name.startswith(PREFIX)}
    for source in sources.values():
        check(source, candidates)
    return sources


def policy_message(
    name: str,
    sources: Mapping[str, Source],
    uplink: Schedule,
    load: dict[str, Any] | None,
) -> dict[str, Any]:
    """The field ``policy`` of the device's ``start``: with its source, or what it is told."""
    if name in sources:
        return {"name": name, "source": sources[name].to_message()}
    if name == "clairvoyant":
        told = load or {"steps": [], "period_ns": None, "clients": False}
        known = {
            "steps": told["steps"],
            "period_ns": told["period_ns"],
            "queued": told["clients"],
        }
        return {"name": name, "oracle": {"uplink": schedule_json(uplink), "load": known}}
    return {"name": name}


def load_message(spec: LoadSpec, duration_ns: int, seed: int) -> dict[str, Any] | None:
    """The load role's ``start`` for one run, its levels in steps; None without load."""
    if spec.kind == "none":
        return None
    return {
        "load": spec.kind,
        "arrivals": spec.arrivals,
        "threads": spec.threads,
        "clients": spec.counts_clients,
        "steps": load_steps(spec, duration_ns, seed),
        "period_ns": spec.period,
        "seed": seed,
    }


def load_steps(spec: LoadSpec, duration_ns: int, seed: int) -> list[list[float]]:
    """``[t_ns, level]`` from the run's beginning; a level is a share, or a number of clients."""
    if spec.markov is not None:
        return _markov(spec.markov.levels, spec.markov.dwell, duration_ns, seed)
    if spec.trace is not None:
        return _trace(spec.trace)
    if spec.steps:
        counted = spec.counts_clients
        return [[s.t, (s.clients if counted else s.level) or 0] for s in spec.steps]
    return [[0, (spec.clients if spec.counts_clients else spec.level) or 0]]


def _markov(
    levels: tuple[float, ...], dwell_ns: int, duration_ns: int, seed: int
) -> list[list[float]]:
    rng = random.Random(seed)
    t_ns, level = 0, rng.choice(levels)
    steps: list[list[float]] = []
    while t_ns < duration_ns + _MARGIN_NS:
        steps.append([t_ns, level])
        t_ns += max(1, round(rng.expovariate(1 / dwell_ns)))
        level = rng.choice([other for other in levels if other != level])
    return steps


def check_loads(experiment: Experiment) -> None:
    """Read every load's trace; UserError, before anything is started, for one that is none."""
    for spec in experiment.loads.values():
        if spec.trace is not None:
            _trace(spec.trace)


def _trace(path: Path) -> list[list[float]]:
    try:
        return _trace_steps(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a CSV file in UTF-8: {error}") from error


def _trace_steps(path: Path) -> list[list[float]]:
    steps: list[list[float]] = []
    with path.open(newline="", encoding="utf-8") as stream:
        rows = csv.reader(line for line in stream if not line.startswith("#"))
        if next(rows, None) != ["t_s", "level"]:
            raise UserError(f"{path}: expected the columns t_s,level")
        for row in rows:
            try:
                t_ns, level = round(float(row[0]) * 1e9), float(row[1])
            except (ValueError, IndexError, OverflowError) as error:
                raise UserError(
                    f"{path}, line {rows.line_num}: expected a time and a level, got {row}"
                ) from error
            if not 0 <= level <= 1 or (steps and t_ns <= steps[-1][0]):
                raise UserError(
                    f"{path}, line {rows.line_num}: expected rising times and levels of 0 to 1"
                )
            steps.append([t_ns, level])
    if not steps or steps[0][0] != 0:
        raise UserError(f"{path}: expected at least one line, the first at 0 s")
    return steps


def query_rules(experiment: Experiment) -> dict[str, Any]:
    """Fields of the device's ``start``: when queries are due, and how long one may take."""
    arrivals = experiment.arrivals
    return {
        "arrivals": {
            "kind": arrivals.kind,
            "interval_ns": arrivals.interval or 0,
            "waiting": arrivals.waiting,
        },
        "deadline_ns": experiment.run.deadline,
        "hedge": experiment.run.hedge,
    }
