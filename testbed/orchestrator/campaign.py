"""All runs of an experiment: prepare, open the session, profile, run in order, close."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.config import Experiment, Inventory
from testbed.errors import TestbedError, UserError
from testbed.hosts.address import require_keys
from testbed.model.cache import Prepared, prepare
from testbed.orchestrator.choosing import check_loads, load_message, policy_message, user_policies
from testbed.orchestrator.conditions import Conditions, Told
from testbed.orchestrator.inputs import (
    keep,
    keep_environment,
    keep_pictures,
    real_pictures,
)
from testbed.orchestrator.ledger import Ledger
from testbed.orchestrator.link_proof import document_of, prove_link
from testbed.orchestrator.listener import Listener
from testbed.orchestrator.plan import (
    DIRECTIONS,
    Plan,
    PlannedRun,
    check_fleets,
    chosen,
    make_plan,
)
from testbed.orchestrator.profile_due import profiles_of_each
from testbed.orchestrator.roles import link_suffixes, suffix_behind
from testbed.orchestrator.run import execute
from testbed.orchestrator.session import Session
from testbed.orchestrator.store import (
    RunFolder,
    new_campaign,
    seal,
    set_aside,
    sole_writer,
)
from testbed.orchestrator.wholeness import verify
from testbed.records import MANIFEST, read_json, write_json
from testbed.traces.formats import load_trace
from testbed.traces.trace import BandwidthTrace

# Sessions lost this often on end without a complete run: one more will not get better.
_SESSIONS_IN_VAIN = 1


class SessionLost(TestbedError):
    """A role ended in the middle of a campaign: a host is gone, or it crashed."""


def load_traces(experiment: Experiment) -> dict[str, BandwidthTrace]:
    """Every bandwidth trace that the experiment names, by its path as written there.

    Those of loads are read, too: UserError for any that is none, before anything is started.
    """
    check_loads(experiment)
    sides = [getattr(link, side) for link in experiment.links.values() for side in DIRECTIONS]
    return {str(s.trace): load_trace(s.trace) for s in sides if s.trace is not None}


class Campaign:
    """One experiment on one inventory, into one folder.

    Attributes:
        folder: where everything lies, there from the start.
        ledger: what became of each run.
    """

    def __init__(
        self,
        experiment: Experiment,
        inventory: Inventory,
        results: Path,
        listener: Listener,
        allow_unverified: bool = False,
        *,
        only: Sequence[str] = (),
        resume: Path | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a new campaign under ``results``, or go on with the one in ``resume``.

        Args:
            experiment: what is run.
            inventory: where.
            results: folder of all results; not used with ``resume``.
            listener: told of every step.
            allow_unverified: go on over a link that is not as asked.
            only: run only what these patterns name (see :func:`plan.chosen`).
            resume: an earlier campaign's folder; its complete runs stay.
            files: the experiment and inventory files as they were given, for the report.

        Raises UserError where the folder's campaign was another model's.
        """
        self.experiment = experiment
        self.inventory = inventory
        self.listener = listener
        self.allow_unverified = allow_unverified
        require_keys(inventory.hosts)
        self.traces = load_traces(experiment)
        listener.stage(f"model: {experiment.model.name}")
        self.prepared: Prepared = prepare(experiment.model)
        plan = make_plan(experiment, self.prepared.table, self.traces, link_suffixes(inventory))
        self.plan: Plan = chosen(plan, only)
        pictures = real_pictures(experiment.inputs, self.prepared.table)
        check_fleets(experiment, inventory.hosts_of("device"))
        self.sources = user_policies(experiment.every_policy, self.plan.candidates)
        self.resumed = resume is not None
        if resume is not None:
            refuse_other_model(resume, self.prepared.archive_sha256)
        self.folder = resume or new_campaign(results, experiment.name)
        keep_pictures(self.folder, pictures)
        facts = {
            "experiment": experiment.name,
            "files": dict(files or {}),
            "model": experiment.model.model_dump(),
            "archive_sha256": self.prepared.archive_sha256,
        }
        self.ledger = Ledger(self.folder, self.plan, experiment.run.repeat_disturbed, facts)

    def run(self) -> None:
        """Run everything; what was measured stays whatever ends it.

        Raises TestbedError when the session cannot go on, KeyboardInterrupt when interrupted.
        """
        with sole_writer(self.folder):
            environment = self._begin()
            state = "failed"
            try:
                self._sit_through()
                state = "complete" if self.ledger.complete else "failed"
            except KeyboardInterrupt:
                state = "interrupted"
                raise
            finally:
                self.ledger.write(state)
                keep_environment(self.folder, environment)
                seal(self.folder, state)

    def _begin(self) -> dict[str, Any]:
        """Write what the campaign is made from; what the orchestrator is."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        if self.resumed:
            self.ledger.take_up()
            if not (self.folder / "profile.json").exists():
                # A further device's is in a folder profile-<host>.
                for unfinished in (*self.folder.glob("profile"), *self.folder.glob("profile-*")):
                    set_aside(unfinished)
        keep(self.folder, self.experiment, self.traces)
        self.ledger.write("running")
        write_json(self.folder / "table.json", {"table": self.prepared.table.to_json()})
        return keep_environment(self.folder)

    def _sit_through(self) -> None:
        """Run all that is due; a session that is lost is opened again while runs get done."""
        in_vain = 0
        while self.ledger.due():
            done = self.ledger.done
            try:
                self._sit()
            except SessionLost as error:
                in_vain = 0 if self.ledger.done > done else in_vain + 1
                if in_vain > _SESSIONS_IN_VAIN:
                    raise
                self.listener.stage(f"hosts: lost ({error}); connecting again")

    def _sit(self) -> None:
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

    def _write_trees(self, name: str, session: Session) -> None:
        trees = {role: session.ready[role][name] for role in session.link_roles}
        write_json(self.folder / f"qdisc.{name}.json", trees)

    def _verify_link(self, session: Session) -> None:
        self.listener.stage("verify: the link carries what it is asked to")
        prove_link(session)
        write_json(self.folder / "link_verification.json", document_of(session))
        faults = session.link_faults
        if faults and not self.allow_unverified:
            record = self.folder / "link_verification.json"
            raise TestbedError(
                f"link: {'; '.join(faults)}; see {record}, or go on with "
                "--allow-unverified, which every result then says"
            )
        for fault in faults:
            self.listener.stage(f"unverified: {fault}")

    def _run_all(self, session: Session) -> None:
        self._verify_link(session)
        self._write_trees("shaped", session)
        self.listener.stage("verify: split equals whole over the wire")
        write_json(self.folder / "verify.json", verify(session))
        profiles = profiles_of_each(session, self._run_one, self.listener.stage)
        for planned in self.ledger.due():
            again = True
            while again:
                self.ledger.begin(planned)
                manifest = self._run_one(session, planned, self._conditions(planned, profiles))
                again = self.ledger.ended(planned, manifest)
                if manifest["state"] == "interrupted":
                    raise KeyboardInterrupt
                if manifest["state"] != "complete":
                    _refuse_lost(session)

    def _run_one(
        self, session: Session, planned: PlannedRun, conditions: Conditions
    ) -> dict[str, Any]:
        self.listener.run_started(planned, len(self.plan.runs))
        with RunFolder(self.folder / planned.run_id) as folder:
            manifest = execute(session, planned, conditions, folder, self.listener.record)
        self.listener.run_finished(planned, manifest)
        return manifest

    def _conditions(
        self, planned: PlannedRun, profiles: Mapping[str, tuple[str, dict[str, Any]]]
    ) -> Conditions:
        """``profiles``: device role to its host and that host's profile."""
        link = self.experiment.links[planned.link]
        spec = self.experiment.loads[planned.load]
        load = load_message(spec, planned.duration_ns, planned.seed)
        schedules = self.plan.schedules[planned.link]

        def told(host: str, profile: dict[str, Any]) -> Told:
            name = self.experiment.policy_of(planned.policy, host)
            uplink = schedules[f"uplink{suffix_behind(self.inventory, host)}"]
            message = policy_message(name, self.sources, uplink, load)
            return Told(message, profile)

        return Conditions(
            schedules=schedules,
            devices={role: told(host, profile) for role, (host, profile) in profiles.items()},
            load=load,
            step_ns=link.step,
            congestion_control=link.congestion_control,
        )


def refuse_other_model(folder: Path, archive_sha256: str) -> None:
    """UserError where a campaign was measured with another model than would go on with it."""
    before = read_json(folder / "campaign.json", "archive_sha256")["archive_sha256"]
    if before != archive_sha256:
        raise UserError(
            f"{folder}: was measured with the model archive {before[:12]}, here it is "
            f"{archive_sha256[:12]}: results would mix; use the same torch and torchvision, or "
            "start a new campaign"
        )


def _refuse_lost(session: Session) -> None:
    """SessionLost when a role has ended: every later run would fail with it."""
    for role in session.roles.values():
        try:
            role.check()
        except TestbedError as error:
            raise SessionLost(str(error)) from error
