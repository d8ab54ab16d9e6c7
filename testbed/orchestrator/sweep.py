"""The paper's sweep: a profile of every batch size, every encoding, and some cells really run."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from testbed.config import Experiment, Inventory
from testbed.encodings import missing, parse_features, parse_input
from testbed.errors import UserError
from testbed.hosts.connection import each
from testbed.model.cache import prepare
from testbed.orchestrator.fingerprint import store_profile
from testbed.orchestrator.inputs import keep_pictures, real_pictures
from testbed.orchestrator.link_proof import document_of, prove_link
from testbed.orchestrator.plan import make_plan
from testbed.orchestrator.profile import profile_from_records
from testbed.orchestrator.profiling import Profiler, Say, closed_loop
from testbed.orchestrator.roles import link_suffixes
from testbed.orchestrator.session import Session
from testbed.orchestrator.store import new_campaign
from testbed.orchestrator.wholeness import verify
from testbed.policy.latency import candidates_from_profile, predict_ns
from testbed.records import write_json
from testbed.traces.formats import load_trace

_APPRAISE_TIMEOUT_S = 300.0
_REPEATS = 7


def profile_batches(experiment: Experiment) -> tuple[int, ...]:
    """Batch sizes of a profile or sweep, rising; the experiment's own where none are named."""
    return tuple(sorted(experiment.profile.batches or (experiment.batch,)))


def grid_rates(experiment: Experiment) -> list[int]:
    """Rates of the grid in bit/s."""
    spec = experiment.sweep
    return list(range(spec.low, spec.high + 1, spec.step))


def sample_cells(experiment: Experiment) -> list[tuple[int, int]]:
    """(rate, batch) of the cells that are really run, drawn without return by the seed."""
    cells = [(rate, b) for b in profile_batches(experiment) for rate in grid_rates(experiment)]
    count = min(experiment.sweep.cells, len(cells))
    drawn = random.Random(experiment.seed).sample(cells, count)
    # By batch size: setting the workers up again costs seconds, and no cell depends on its turn.
    return sorted(drawn, key=lambda cell: cell[1])


def measure_profile(
    experiment: Experiment, inventory: Inventory, results: Path, say: Say
) -> tuple[Path, dict[str, Any]]:
    """Measure a profile and keep it for later campaigns; returns its folder and the document."""
    folder, session = _open(experiment, inventory, results, say)
    with session:
        _verify(session, folder, say)
        profile = Profiler(session, folder / "runs", say).measure(profile_batches(experiment))
        session.restore_link()
    write_json(folder / "profile.json", profile)
    store_profile(profile)
    return folder, profile


def run_sweep(experiment: Experiment, inventory: Inventory, results: Path, say: Say) -> Path:
    """Measure everything that the sweep's report needs; returns the folder.

    ``profile.json`` (as :func:`measure_profile`), ``encodings.json`` and ``cells.json``.
    """
    folder, session = _open(experiment, inventory, results, say)
    with session:
        _refuse_missing(session)
        _verify(session, folder, say)
        profiler = Profiler(session, folder / "runs", say)
        profile = profiler.measure(profile_batches(experiment))
        write_json(folder / "profile.json", profile)
        store_profile(profile)
        write_json(folder / "encodings.json", {"batches": _appraise_all(profiler, say)})
        cells = []
        for rate_bps, batch in sample_cells(experiment):
            cells.append(_run_cell(profiler, profile, rate_bps, batch, say))
            write_json(folder / "cells.json", {"cells": cells})
        session.restore_link()
    return folder


def _open(
    experiment: Experiment, inventory: Inventory, results: Path, say: Say
) -> tuple[Path, Session]:
    say(f"model: {experiment.model.name}")
    prepared = prepare(experiment.model)
    sides = [s for link in experiment.links.values() for s in (link.uplink, link.downlink)]
    traces = {str(s.trace): load_trace(s.trace) for s in sides if s.trace is not None}
    # The first batch size of the profile: the workers are set up for it at once, and the load
    # role where a condition asks for one.
    loads = {f"clients-{n}": closed_loop(n) for n in experiment.profile.loads}
    changes = {"batch": profile_batches(experiment)[0], "loads": {**experiment.loads, **loads}}
    first = experiment.model_copy(update=changes)
    plan = make_plan(first, prepared.table, traces, link_suffixes(inventory))
    pictures = real_pictures(experiment.inputs, prepared.table)
    folder = new_campaign(results, experiment.name)
    resolved = {"experiment": experiment.model_dump(mode="json")}
    write_json(folder / "experiment.resolved.json", resolved)
    keep_pictures(folder, pictures)
    write_json(folder / "table.json", {"table": prepared.table.to_json()})
    return folder, Session(first, inventory, plan, prepared, folder, say)


def _verify(session: Session, folder: Path, say: Say) -> None:
    """Split equals whole, and the link; a link that is not true is told and kept, not refused."""
    say("verify: the link, and that split equals whole over it")
    prove_link(session)
    write_json(folder / "link_verification.json", document_of(session))
    for fault in session.link_faults:
        say(f"unverified: {fault}")
    write_json(folder / "verify.json", verify(session))


def _refuse_missing(session: Session) -> None:
    sweep = session.experiment.sweep
    wanted = [*map(parse_input, sweep.inputs), *map(parse_features, sweep.features)]
    for role in ("device", "server"):
        for name, package in missing(wanted, session.roles[role].hello["codecs"]).items():
            raise UserError(
                f"sweep: {name} needs the package {package}, which {session.host_of(role)} does "
                f"not have; install it there (pip install {package}) or leave the encoding out"
            )


def _appraise_all(profiler: Profiler, say: Say) -> dict[str, Any]:
    """Batch → encoding → split → cost on each host and, for the largest batch, agreement."""
    session = profiler.session
    batches = profile_batches(session.experiment)
    found = {}
    # The batch size that the workers are set up for goes first.
    for batch in sorted(batches, key=lambda b: b != session.experiment.batch):
        say(f"encodings: batch {batch}")
        if batch != session.experiment.batch:
            session.set_batch(batch)
        found[str(batch)] = _appraise(session, agreement=batch == batches[-1])
    return found


def _appraise(session: Session, *, agreement: bool) -> dict[str, Any]:
    sweep = session.experiment.sweep
    asked = {
        "inputs": list(sweep.inputs),
        "features": list(sweep.features),
        "repeats": _REPEATS,
        "seed": session.experiment.seed,
    }

    def ask(role: str) -> dict[str, Any]:
        # Agreement is the server's to find: it runs the tails, and is the faster.
        asked_here = {**asked, "agreement": agreement and role == "server"}
        message = {"type": "appraise", "asked": asked_here}
        answer = session.roles[role].request(message, "appraised", timeout_s=_APPRAISE_TIMEOUT_S)
        return dict(answer["encodings"])

    told = each("appraise", {role: partial(ask, role) for role in ("device", "server")})
    return {
        name: {
            split: {**told["server"][name][split], "encode_ns": row["encode_ns"]}
            for split, row in splits.items()
        }
        for name, splits in told["device"].items()
    }


def _run_cell(
    profiler: Profiler, profile: dict[str, Any], rate_bps: int, batch: int, say: Say
) -> dict[str, Any]:
    """Every candidate at one rate and batch size, predicted and measured."""
    say(f"cell: {rate_bps / 1e6:g} Mbit/s, batch {batch}")
    queries = profiler.session.experiment.sweep.queries
    records = profiler.cycle(rate_bps, batch, queries, f"cell.{rate_bps // 1000}k.b{batch}")
    own = profile["batches"][str(batch)]
    predicted = predict_all(own, rate_bps)
    found = {split: _measured(records, split) for split in predicted}
    seen = [split for split, row in found.items() if row["n"]]
    # What these very runs computed in, in the profile's place: what is left is the formula's error.
    timed = profile_from_records(records, candidates=seen, up_bps=rate_bps)["candidates"]
    retimed = predict_all({**own, "candidates": timed}, rate_bps)
    return {
        "rate_bps": rate_bps,
        "batch": batch,
        "candidates": {
            split: {"predicted_ns": expected, "retimed_ns": retimed.get(split), **found[split]}
            for split, expected in predicted.items()
        },
    }


def predict_all(
    profile: dict[str, Any], rate_bps: int, *, rtt_ns: int = 0, load: float = 1.0
) -> dict[str, int]:
    """The formula's latency of every candidate at one rate, by split."""
    base_ns = profile["base_network_ns"] + rtt_ns
    return {
        c.split: predict_ns(c, rate_bps=rate_bps, base_network_ns=base_ns, load=load)
        for c in candidates_from_profile(profile)
    }


def _measured(records: Iterable[dict[str, Any]], split: str) -> dict[str, Any]:
    times = [
        r["e2e_ns"]
        for r in records
        if r["kind"] == "measured" and r["status"] == "ok" and r["split"] == split
    ]
    if not times:
        return {"measured_ns": None, "low_ns": None, "high_ns": None, "n": 0}
    return {
        "measured_ns": round(median(times)),
        "low_ns": min(times),
        "high_ns": max(times),
        "n": len(times),
    }
