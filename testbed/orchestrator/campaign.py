"""All runs of an experiment: prepare, open the session, profile, run in order, close."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from testbed.config import Experiment, Inventory
from testbed.config.experiment import LoadSpec
from testbed.errors import TestbedError, UserError
from testbed.model.cache import Prepared, prepare
from testbed.orchestrator.plan import DIRECTIONS, Plan, PlannedRun, make_plan
from testbed.orchestrator.profile import profile_from_records
from testbed.orchestrator.run import Conditions, execute, verify
from testbed.orchestrator.session import Session
from testbed.orchestrator.store import RunFolder, new_campaign
from testbed.records import write_json
from testbed.traces.formats import load_trace
from testbed.traces.trace import BandwidthTrace, Schedule


class Listener(Protocol):
    """What the person at the terminal is told while a campaign runs."""

    def stage(self, text: str) -> None:
        """A step of the set-up begins."""

    def run_started(self, planned: PlannedRun, total: int) -> None:
        """A run begins."""

    def record(self, role: str, file: str, record: dict[str, Any]) -> None:
        """A record of the run in progress; called from a reader thread."""

    def run_finished(self, planned: PlannedRun, manifest: dict[str, Any]) -> None:
        """A run ended."""


def load_traces(experiment: Experiment) -> dict[str, BandwidthTrace]:
    """Every trace file that the experiment names, by its path as written there."""
    sides = [getattr(link, side) for link in experiment.links.values() for side in DIRECTIONS]
    return {str(s.trace): load_trace(s.trace) for s in sides if s.trace is not None}


def refuse_unshapeable(experiment: Experiment) -> None:
    """UserError for delay, jitter or loss: the link shapes the rate only."""
    for name, link in experiment.links.items():
        for side in DIRECTIONS:
            for key in ("delay", "jitter", "loss"):
                if getattr(getattr(link, side), key):
                    raise UserError(
                        f"links.{name}.{side}.{key}: needs the netem qdisc, which this release "
                        "does not drive; remove it, or add the delay outside the testbed"
                    )


class Campaign:
    """One experiment on one inventory, into one folder.

    Attributes:
        folder: where everything lies, there from the start.
        states: state of each run that ended, by run id.
    """

    def __init__(
        self, experiment: Experiment, inventory: Inventory, results: Path, listener: Listener
    ) -> None:
        refuse_unshapeable(experiment)
        self.experiment = experiment
        self.inventory = inventory
        self.listener = listener
        self.traces = load_traces(experiment)
        listener.stage(f"model: {experiment.model.name}")
        self.prepared: Prepared = prepare(experiment.model)
        self.plan: Plan = make_plan(experiment, self.prepared.table, self.traces)
        self.folder = new_campaign(results, experiment.name)
        self.states: dict[str, str] = {}
        self.degraded: dict[str, list[str]] = {}

    def run(self) -> None:
        """Run everything; what was measured stays whatever ends it.

        Raises TestbedError when the session cannot go on, KeyboardInterrupt when interrupted.
        """
        self._write_state("running")
        write_json(
            self.folder / "experiment.resolved.json",
            {"experiment": self.experiment.model_dump(mode="json")},
        )
        write_json(self.folder / "table.json", {"table": self.prepared.table.to_json()})
        state = "failed"
        try:
            with Session(
                self.experiment,
                self.inventory,
                self.plan,
                self.prepared,
                self.folder,
                self.listener.stage,
            ) as session:
                self._write_trees("before", session)
                self._run_all(session)
                write_json(self.folder / "qdisc.after.json", session.restore_link())
            state = "complete" if set(self.states.values()) == {"complete"} else "failed"
        except KeyboardInterrupt:
            state = "interrupted"
            raise
        finally:
            self._write_state(state)

    def _write_trees(self, name: str, session: Session) -> None:
        trees = {role: session.ready[role][name] for role in session.link_roles}
        write_json(self.folder / f"qdisc.{name}.json", trees)

    def _run_all(self, session: Session) -> None:
        self._write_trees("shaped", session)
        self.listener.stage("verify: split equals whole over the wire")
        write_json(self.folder / "verify.json", {"splits": verify(session)})
        profile = self._profile(session)
        for planned in self.plan.runs:
            self._run_one(session, planned, self._conditions(planned, profile))

    def _run_one(
        self, session: Session, planned: PlannedRun, conditions: Conditions, name: str = ""
    ) -> dict[str, Any]:
        self.listener.run_started(planned, len(self.plan.runs))
        with RunFolder(self.folder / (name or planned.run_id)) as folder:
            manifest = execute(session, planned, conditions, folder, self.listener.record)
        self.listener.run_finished(planned, manifest)
        if not name:
            self.states[planned.run_id] = manifest["state"]
        if manifest["validity"] == "degraded":
            self.degraded[planned.run_id] = manifest["reasons"]
        self._write_state("running")
        if manifest["state"] == "interrupted":
            raise KeyboardInterrupt
        return manifest

    def _conditions(self, planned: PlannedRun, profile: dict[str, Any]) -> Conditions:
        link = self.experiment.links[planned.link]
        load: LoadSpec = self.experiment.loads[planned.load]
        return Conditions(
            schedules=self.plan.schedules[planned.link],
            policy={"name": planned.policy},
            profile=profile,
            steps=[[step.t, step.clients] for step in load.steps],
            period_ns=load.period,
            step_ns=link.step,
            congestion_control=link.congestion_control,
        )

    def _profile(self, session: Session) -> dict[str, Any]:
        """Measure every candidate in the rhythm of a run, at a constant rate."""
        rate = self.experiment.profile.rate
        queries = self.experiment.profile.queries
        link = next(iter(self.experiment.links.values()))
        constant = Schedule.constant(rate, end="hold")
        conditions = Conditions(
            schedules=dict.fromkeys(DIRECTIONS, constant),
            policy={"name": "cycle", "queries": queries},
            profile=None,
            steps=None,
            period_ns=None,
            step_ns=link.step,
            congestion_control=link.congestion_control,
        )
        planned = PlannedRun(
            run_id="profile",
            index=-1,
            link="constant",
            load="none",
            policy="cycle",
            trial=0,
            seed=self.experiment.seed,
            batch=self.experiment.batch,
            # A bound, not a length: the cycle ends when every candidate has its queries.
            duration_ns=300 * 10**9,
        )
        manifest = self._run_one(session, planned, conditions, name="profile")
        if manifest["state"] != "complete":
            raise TestbedError(f"profile: {'; '.join(manifest['reasons'])}")
        lines = (self.folder / "profile" / "queries.jsonl").read_text().splitlines()
        profile = profile_from_records(
            map(json.loads, lines), candidates=self.plan.candidates, up_bps=rate
        )
        profile |= {
            "model": self.experiment.model.name,
            "archive_sha256": self.prepared.archive_sha256,
            "batch": self.experiment.batch,
            "encoding": self.experiment.encoding.model_dump(),
            "rate_bps": rate,
        }
        write_json(self.folder / "profile.json", profile)
        return profile

    def _write_state(self, state: str) -> None:
        document = {
            "experiment": self.experiment.name,
            "state": state,
            "runs": [
                {**asdict(run), "state": self.states.get(run.run_id)} for run in self.plan.runs
            ],
            "candidates": self.plan.candidates,
            "model": self.experiment.model.model_dump(),
            "archive_sha256": self.prepared.archive_sha256,
        }
        write_json(self.folder / "campaign.json", document)
