"""Measures a profile in the rhythm of a run: candidates × batch sizes, until it is tight."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from testbed.config import Experiment
from testbed.config.load_spec import LoadSpec
from testbed.errors import TestbedError
from testbed.orchestrator.choosing import load_message
from testbed.orchestrator.conditions import Conditions, Told
from testbed.orchestrator.fingerprint import profile_key
from testbed.orchestrator.plan import DIRECTIONS, PlannedRun
from testbed.orchestrator.profile import drift, profile_from_records, tails_under_load, widest
from testbed.orchestrator.run import execute
from testbed.orchestrator.session import OnRecord, Session
from testbed.orchestrator.store import RunFolder
from testbed.traces.trace import Schedule

# A bound, not a length: the cycle ends when every candidate has its queries.
CYCLE_MOST_NS = 300 * 10**9

Say = Callable[[str], None]


def cycle_conditions(
    experiment: Experiment,
    rate_bps: int,
    queries: int,
    device: str = "device",
    *,
    directions: Iterable[str] = DIRECTIONS,
    clients: int = 0,
) -> Conditions:
    """Every candidate ``queries`` times in shuffled blocks, at one rate both ways.

    One device role alone: the others would be in its way. ``directions``: those of every router.
    ``clients`` keep the server's executor busy meanwhile, each in a closed loop.
    """
    link = next(iter(experiment.links.values()))
    return Conditions(
        schedules=dict.fromkeys(directions, Schedule.constant(rate_bps, end="hold")),
        devices={device: Told({"name": "cycle", "queries": queries}, None)},
        load=load_message(closed_loop(clients), CYCLE_MOST_NS, experiment.seed),
        step_ns=link.step,
        congestion_control=link.congestion_control,
    )


def closed_loop(clients: int) -> LoadSpec:
    """That many clients on the server's executor; no load for none."""
    return LoadSpec(kind="inference", clients=clients) if clients else LoadSpec()


def cycle_run(experiment: Experiment, run_id: str, batch: int, seed: int) -> PlannedRun:
    """The plan of such a run."""
    return PlannedRun(
        run_id=run_id,
        index=-1,
        link="constant",
        load="none",
        policy="cycle",
        trial=0,
        seed=seed,
        batch=batch,
        duration_ns=CYCLE_MOST_NS,
    )


def cycle_records(folder: Path, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records of such a run; TestbedError, or KeyboardInterrupt, where it is not complete."""
    if manifest["state"] == "interrupted":
        raise KeyboardInterrupt
    if manifest["state"] != "complete":
        raise TestbedError(f"{folder.name}: {'; '.join(manifest['reasons'])}")
    return [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]


def describe_profile(
    experiment: Experiment, archive_sha256: str, batch: int, rate_bps: int
) -> dict[str, Any]:
    """What a profile of one batch size says it is of."""
    return {
        "model": experiment.model.name,
        "archive_sha256": archive_sha256,
        "batch": batch,
        "encoding": experiment.encoding.model_dump(),
        "rate_bps": rate_bps,
    }


class Profiler:
    """Cycles through the candidates of an open session; folders of its runs go under ``folder``."""

    def __init__(
        self, session: Session, folder: Path, say: Say, on_record: OnRecord | None = None
    ) -> None:
        self.session = session
        self._folder = folder
        self._say = say
        self._on_record = on_record or (lambda role, file, record: None)
        self._runs = 0

    def cycle(
        self, rate_bps: int, batch: int, queries: int, name: str, *, clients: int = 0
    ) -> list[dict[str, Any]]:
        """Records of one run; the roles are set up again where the batch size is another.

        Raises TestbedError where the run did not complete.
        """
        if batch != self.session.experiment.batch:
            self._say(f"set up for batch {batch}")
            self.session.set_batch(batch)
        experiment = self.session.experiment
        self._runs += 1
        conditions = cycle_conditions(
            experiment, rate_bps, queries, directions=self.session.directions, clients=clients
        )
        planned = cycle_run(experiment, name, batch, experiment.seed + self._runs)
        path = self._folder / name
        with RunFolder(path) as folder:
            manifest = execute(self.session, planned, conditions, folder, self._on_record)
        return cycle_records(path, manifest)

    def measure(self, batches: tuple[int, ...]) -> dict[str, Any]:
        """The profile document of all batch sizes.

        Repeats a batch size until the 95 % interval of every candidate's median computing time is
        within the tolerance, or that batch size's share of the time budget is spent; ``stopped``
        says which. The first batch size is measured again at the end: ``drift`` has the ratios.
        ``loads`` has what becomes of that one's tails under each number of clients.
        """
        spec = self.session.experiment.profile
        began = monotonic()
        found, stopped, pooled = {}, {}, {}
        for turn, batch in enumerate(batches):
            end = began + spec.budget / 1e9 * (turn + 1) / len(batches)
            pooled[batch], stopped[str(batch)] = self._until_tight(batch, end)
            found[str(batch)] = self._profile(pooled[batch], batch)
        first = batches[0]
        self._say(f"batch {first} again, for drift")
        again = self.cycle(spec.rate, first, spec.queries, f"b{first}.again")
        return {
            "key": profile_key(self.session),
            "model": self.session.experiment.model.name,
            "encoding": self.session.experiment.encoding.model_dump(),
            "rate_bps": spec.rate,
            "tolerance": spec.tolerance,
            "stopped": stopped,
            "drift": drift(found[str(first)], self._profile(again, first)),
            "batches": found,
            "loads": {str(clients): self._under_load(clients) for clients in spec.loads},
        }

    def _under_load(self, clients: int) -> dict[str, Any]:
        experiment = self.session.experiment
        spec, batch = experiment.profile, experiment.batch
        self._say(f"batch {batch} under load: {clients} clients")
        name = f"b{batch}.clients{clients}"
        records = self.cycle(spec.rate, batch, spec.queries, name, clients=clients)
        return {"batch": batch, "candidates": tails_under_load(records)}

    def _until_tight(self, batch: int, end: float) -> tuple[list[dict[str, Any]], str]:
        spec = self.session.experiment.profile
        records: list[dict[str, Any]] = []
        rounds = 0
        while True:
            rounds += 1
            name = f"b{batch}.r{rounds}"
            records += self.cycle(spec.rate, batch, spec.queries, name)
            width = widest(self._profile(records, batch))
            self._say(
                f"batch {batch}, round {rounds}: median known within ±{width:.1%}"
                if width < 1
                else f"batch {batch}, round {rounds}: too few queries to tell"
            )
            if width <= spec.tolerance:
                return records, "tight"
            if monotonic() >= end:
                return records, "budget"

    def _profile(self, records: list[dict[str, Any]], batch: int) -> dict[str, Any]:
        session, rate_bps = self.session, self.session.experiment.profile.rate
        assert session.prepared is not None, "a profile is of a model"
        measured = profile_from_records(
            records, candidates=session.plan.candidates, up_bps=rate_bps
        )
        told = describe_profile(
            session.experiment, session.prepared.archive_sha256, batch, rate_bps
        )
        return {**measured, **told}
