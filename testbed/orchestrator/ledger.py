"""What became of each planned run: what is done, what is to be repeated (``campaign.json``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from testbed.orchestrator.plan import Plan, PlannedRun
from testbed.orchestrator.store import ATTEMPTS, set_aside, state_of
from testbed.records import MANIFEST, read_json, write_json


class Ledger:
    """The state of every planned run; written after each.

    Attributes:
        states: state of each run that ended, by run id.
        degraded: reasons of each run that is degraded.
    """

    def __init__(self, folder: Path, plan: Plan, repeats: int, facts: Mapping[str, Any]) -> None:
        self.folder, self.plan = folder, plan
        self.states: dict[str, str] = {}
        self.degraded: dict[str, list[str]] = {}
        self._validity: dict[str, str] = {}
        self._repeats = repeats
        self._tries: Counter[str] = Counter()
        self._facts = dict(facts)

    def take_up(self) -> None:
        """Go on with what the folder holds: complete runs stay, others are set aside."""
        for run in self.plan.runs:
            state = state_of(self.folder / run.run_id)
            if state == "complete":
                manifest = self.folder / run.run_id / MANIFEST
                self._keep(run, read_json(manifest, "validity", "reasons"))
            elif state is not None:
                set_aside(self.folder / run.run_id)

    def due(self) -> list[PlannedRun]:
        """Runs that are not complete and may be tried yet, in order."""
        return [
            run
            for run in self.plan.runs
            if self.states.get(run.run_id) != "complete"
            and self._tries[run.run_id] <= self._repeats
        ]

    def begin(self, run: PlannedRun) -> None:
        """A run is tried; what a try before left is set aside."""
        self._tries[run.run_id] += 1
        if (self.folder / run.run_id).exists():
            set_aside(self.folder / run.run_id)

    def ended(self, run: PlannedRun, manifest: Mapping[str, Any]) -> bool:
        """Note how it ended; whether it failed or was disturbed, and may be repeated."""
        self._keep(run, manifest)
        self.write("running")
        bad = manifest["state"] != "complete" or manifest["disturbed"]
        return bad and self._tries[run.run_id] <= self._repeats

    def _keep(self, run: PlannedRun, manifest: Mapping[str, Any]) -> None:
        self.states[run.run_id] = manifest["state"]
        self._validity[run.run_id] = manifest["validity"]
        self.degraded.pop(run.run_id, None)
        if manifest["validity"] == "degraded":
            self.degraded[run.run_id] = list(manifest["reasons"])

    @property
    def done(self) -> int:
        """How many runs are complete."""
        return sum(state == "complete" for state in self.states.values())

    @property
    def complete(self) -> bool:
        """Whether every planned run is complete."""
        return all(self.states.get(run.run_id) == "complete" for run in self.plan.runs)

    def tally(self) -> dict[str, int]:
        """How many runs ended in which state and validity."""
        told: Counter[str] = Counter()
        for run in self.plan.runs:
            state = self.states.get(run.run_id, "not begun")
            told[f"{state}, {self._validity[run.run_id]}" if state == "complete" else state] += 1
        return dict(told)

    def write(self, state: str) -> None:
        """Write ``campaign.json``."""
        aside = Counter(path.name.rpartition(".a")[0] for path in _attempts(self.folder))
        runs = [
            {
                **asdict(run),
                "state": self.states.get(run.run_id),
                "validity": self._validity.get(run.run_id),
                "set_aside": aside[run.run_id],
            }
            for run in self.plan.runs
        ]
        write_json(
            self.folder / "campaign.json",
            {**self._facts, "state": state, "runs": runs, "candidates": self.plan.candidates},
        )


def _attempts(folder: Path) -> list[Path]:
    attempts = folder / ATTEMPTS
    return list(attempts.iterdir()) if attempts.is_dir() else []
