"""One run: start every role, let the device measure, stop, and write what happened."""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict
from functools import partial
from typing import Any

from testbed.errors import GroupError, TestbedError
from testbed.hosts.connection import each
from testbed.orchestrator.carried import carried_reasons
from testbed.orchestrator.choosing import query_rules
from testbed.orchestrator.conditions import Conditions
from testbed.orchestrator.evidence import clocks, environments
from testbed.orchestrator.neighbours import others_share
from testbed.orchestrator.plan import DIRECTIONS, PlannedRun, schedule_json
from testbed.orchestrator.roles import suffix_behind
from testbed.orchestrator.session import STOP_TIMEOUT_S, OnRecord, Session
from testbed.orchestrator.store import RunFolder
from testbed.orchestrator.validity import judge, unexplained

_CHECK_INTERVAL_S = 1.0
_WATCH_S = 0.5  # before a run, for what else keeps the hosts busy


def execute(
    session: Session,
    planned: PlannedRun,
    conditions: Conditions,
    folder: RunFolder,
    on_record: OnRecord,
) -> dict[str, Any]:
    """Run it and finish its folder; returns the manifest.

    Whatever ends the run early (a lost host, an interrupt), the records so far stay and the
    manifest says ``failed`` or ``interrupted``: to go on is the caller's decision.
    """
    run = _Run(session, planned, conditions, folder)

    def keep(role: str, file: str, record: dict[str, Any]) -> None:
        folder.append(file, record)
        if file == "queries" and record["kind"] == "measured":
            if record["status"] not in ("ok", "dropped"):
                run.not_ok_due_ns[role].append(record["t_due_ns"])
            elif record["predicted_ns"]:
                off = record["e2e_ns"] / record["predicted_ns"]
                run.off_predicted.setdefault(record["split"], []).append(off)
        elif file == "link":
            run.link_records.append(record)
        on_record(role, file, record)

    session.on_record = keep
    state, reasons = "complete", []
    try:
        run.describe()
        run.measure()
    except KeyboardInterrupt:
        state = "interrupted"
    except TestbedError as error:
        state, reasons = "failed", [str(error)]
    try:
        run.stop()
    except KeyboardInterrupt:
        state = "interrupted"
    except TestbedError as error:
        reasons.append(f"stop: {error}")
        state = "failed" if state == "complete" else state
    return run.finish(state, reasons)


class _Run:
    def __init__(
        self, session: Session, planned: PlannedRun, conditions: Conditions, folder: RunFolder
    ) -> None:
        self.session, self.planned, self.conditions = session, planned, conditions
        self.folder = folder
        self.token = secrets.token_hex(16)
        self.done: dict[str, Any] = {}
        self.t0_ns: dict[str, int] = {}
        self.going: list[str] = []
        self.not_ok_due_ns: dict[str, list[int]] = {role: [] for role in conditions.devices}
        self.off_predicted: dict[str, list[float]] = {}
        self.link_records: list[dict[str, Any]] = []
        self.environments: dict[str, dict[str, Any]] = {}
        self.clock_before: dict[str, Any] = {}

    def describe(self) -> None:
        """Write what is to be run, and what the hosts are before it."""
        schedules = {side: schedule_json(s) for side, s in self.conditions.schedules.items()}
        told = {"schedules": schedules, "server_load": self.conditions.load}
        inventory = self.session.inventory
        if len(inventory.routers) > 1:  # which link is whose
            hosts = self.session.device_roles.values()
            told["behind"] = {host: suffix_behind(inventory, host) for host in hosts}
        self.folder.write("plan.json", {**asdict(self.planned), **told})
        for name in ("before", "shaped"):
            tree = {role: self.session.ready[role][name] for role in self.session.link_roles}
            self.folder.write(f"qdisc.{name}.json", tree)
        self.environments = environments(self.session, _WATCH_S)
        for host, found in self.environments.items():
            self.folder.write(f"environment.{host}.json", found)
        self.clock_before = {host: asdict(c) for host, c in clocks(self.session).items()}

    def measure(self) -> None:
        roles, run_id = self.session.roles, self.planned.run_id
        congestion_control = self.conditions.congestion_control
        self._start("server", {"token": self.token, "congestion_control": congestion_control})
        self._go("server")
        for name, sides in self.session.link_roles.items():
            wanted = {s: schedule_json(self.conditions.schedules[s]) for s in sides}
            directions = self.session.link_directions(name, self.planned.link)
            self._start(name, {"schedules": wanted, "directions": directions})
        if self.conditions.load:
            server = self.session.server_endpoint(self.token)
            self._start("load", {**self.conditions.load, "server": server})
        devices = list(self.conditions.devices)
        begin = {name: partial(self._start, name, self._device_start(name)) for name in devices}
        each("start devices", begin)
        for name in self.session.link_roles:
            self._go(name)
            went = roles[name].wait("went", timeout_s=STOP_TIMEOUT_S)
            self.t0_ns[name] = went["t0_ns"]
        if self.conditions.load:
            self._go("load")
        for name in devices:
            self._go(name)
        self._await_devices()
        for name in devices:
            self.t0_ns[name] = self.done[name]["t0_ns"]
            if self.done[name]["queries"] == 0:
                raise TestbedError(f"{run_id}: {name} measured no query in the run's duration")

    def _await_devices(self) -> None:
        """Wait for every device; a role that ends in the meantime ends the run at once."""
        run_ns = self.planned.duration_ns + self.session.experiment.run.timeout
        deadline_s = time.monotonic() + run_ns / 1e9 + STOP_TIMEOUT_S
        for name in self.conditions.devices:
            device = self.session.roles[name]
            while (done := device.poll("done", _CHECK_INTERVAL_S)) is None:
                if time.monotonic() >= deadline_s:
                    done = device.wait("done", timeout_s=0.0)
                    break
                for other in self.going:
                    self.session.roles[other].check()
            self.done[name] = done
            self.going.remove(name)

    def _start(self, name: str, message: dict[str, Any]) -> None:
        message = {"type": "start", "run_id": self.planned.run_id, **message}
        patience_s = self.session.patience_s(self.session.experiment.run.warmup_queries)
        self.session.roles[name].request(message, "started", patience_s)

    def _go(self, name: str) -> None:
        self.session.roles[name].send({"type": "go"})
        self.going.append(name)  # from here on it owes a ``done``

    def _device_start(self, name: str) -> dict[str, Any]:
        experiment, told = self.session.experiment, self.conditions.devices[name]
        return {
            "device": self.session.host_of(name),
            "policy": told.policy,
            # Devices that drew alike would ask at the same moments.
            "seed": self.planned.seed + list(self.session.device_roles).index(name),
            "server": self.session.server_endpoint(self.token),
            "profile": told.profile,
            "warmup_queries": experiment.run.warmup_queries,
            "duration_ns": self.planned.duration_ns,
            "probe": {
                "bytes": experiment.probe.size,
                "interval_ns": experiment.probe.interval,
                "budget_bytes": experiment.probe.budget,
            },
            "timeout_ns": experiment.run.timeout,
            "congestion_control": self.conditions.congestion_control,
            **query_rules(experiment),
        }

    def stop(self) -> None:
        """Stop every role that is going; each one's ``done`` closes its part of the run."""

        def stop_one(name: str) -> dict[str, Any]:
            role = self.session.roles[name]
            role.stop()
            return role.wait("done", timeout_s=STOP_TIMEOUT_S)

        # Device and load first: what they still send must find a server. One that fails keeps
        # none of the others going.
        outcomes: dict[str, BaseException | None] = {}
        first = [name for name in self.going if name in (*self.conditions.devices, "load")]
        for names in (*([name] for name in first), [n for n in self.going if n not in first]):
            try:
                self.done |= each("stop", {name: partial(stop_one, name) for name in names})
            except GroupError as error:
                self.done |= error.results
                outcomes |= error.outcomes
        if outcomes:
            raise GroupError("stop", outcomes)

    def finish(self, state: str, reasons: list[str]) -> dict[str, Any]:
        session = self.session
        try:
            after = {host: asdict(c) for host, c in clocks(session).items()}
        except GroupError as error:
            after = {host: asdict(clock) for host, clock in error.results.items()}
            reasons.append(str(error))
        hosts = {
            host: {"before": before, "after": after.get(host)}
            for host, before in self.clock_before.items()
        }
        self.folder.write("clock.json", {"hosts": hosts})
        shaped = {n: self.done[n]["shaped"] for n in session.link_roles if n in self.done}
        self.folder.write("qdisc.after.json", shaped)
        pairs = self._environments_after(reasons)
        others = others_share(pairs)
        schedules = self.conditions.schedules
        devices = self.conditions.devices
        found = judge(
            self.done,
            self.conditions.step_ns,
            session.link_roles,
            {name: self._not_ok(name) for name in devices},
            hosts=pairs,
            others=session.usual.compare(others),
            clock_bounds_ns={host: clock["bound_ns"] for host, clock in after.items()},
            off_predicted=self.off_predicted if self.conditions.foretold else None,
        )
        unverified = [f"link not verified: {fault}" for fault in session.link_faults]
        cut = [side for side, schedule in schedules.items() if schedule.outages]
        carried = carried_reasons(self.link_records, cut)
        validity = "degraded" if carried else found.validity
        trusted = state == "complete" and not unverified
        return self.folder.finish(
            {
                "run_id": self.planned.run_id,
                "state": state,
                "validity": validity if trusted else "unverified",
                "disturbed": found.disturbed,
                "reasons": [*reasons, *unverified, *carried, *found.reasons],
                "others_share": others,
                "experiment": session.experiment.model_dump(mode="json"),
                "t0_ns": self.t0_ns,
                **self.done,
            }
        )

    def _not_ok(self, name: str) -> int:
        begun_ns = self.done.get(name, {}).get("t0_ns", 0)
        dues_ns = (due_ns - begun_ns for due_ns in self.not_ok_due_ns[name])
        suffix = suffix_behind(self.session.inventory, self.session.host_of(name))
        own = [self.conditions.schedules[side + suffix] for side in DIRECTIONS]
        return unexplained(dues_ns, own)

    def _environments_after(
        self, reasons: list[str]
    ) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        """Each host before and after; what changed goes into its file as ``after``."""
        try:
            ends = environments(self.session)
        except TestbedError as error:
            reasons.append(f"environment: {error}")
            return {}
        for host, begun in self.environments.items():
            changed = {k: v for k, v in ends[host].items() if v != begun.get(k)}
            self.folder.write(f"environment.{host}.json", {**begun, "after": changed})
        return {host: (begun, ends[host]) for host, begun in self.environments.items()}
