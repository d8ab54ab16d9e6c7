"""The profile that each device of a campaign decides by: kept from before, or measured now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from testbed.orchestrator.conditions import Conditions
from testbed.orchestrator.fingerprint import alike_devices, find_profile, profile_key
from testbed.orchestrator.plan import PlannedRun
from testbed.orchestrator.profile import profile_from_records
from testbed.orchestrator.profiling import (
    Say,
    cycle_conditions,
    cycle_records,
    cycle_run,
    describe_profile,
)
from testbed.orchestrator.session import Session
from testbed.orchestrator.store import set_aside
from testbed.records import read_json, write_json

RunOne = Callable[[Session, PlannedRun, Conditions], dict[str, Any]]


def profiles_of_each(
    session: Session, run_one: RunOne, say: Say
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Each device role's host and profile: the campaign's own ``profile.json``, made if need be.

    ``run_one`` makes one run of the campaign and returns its manifest.
    """
    path = session.folder / "profile.json"
    if not path.exists():
        write_json(path, _new(session, run_one, say))
    document = read_json(path, "candidates")
    of_each: dict[str, Any] = document.get("devices", {})
    return {
        role: (host, of_each.get(host, document)) for role, host in session.device_roles.items()
    }


def _new(session: Session, run_one: RunOne, say: Say) -> dict[str, Any]:
    """The document of the first device's profile; ``devices`` holds all, where several are."""
    if len(session.device_roles) == 1:
        kept = find_profile(profile_key(session), session.experiment.batch)
        if kept is None:
            return _measured(session, run_one, "device")
        path, profile = kept
        say(f"profile: reused from {path}; its key is this campaign's")
        return {**profile, "reused": str(path)}
    likes = alike_devices(session)
    measured = {
        host: _measured(session, run_one, role)
        for role, host in session.device_roles.items()
        if likes[host] == host
    }
    found = {host: {**measured[like], "measured_on": like} for host, like in likes.items()}
    return {**next(iter(found.values())), "devices": found}


def _measured(session: Session, run_one: RunOne, role: str) -> dict[str, Any]:
    """Every candidate in the rhythm of a run, at a constant rate, on one device.

    One that was disturbed is measured again, as a run is: every policy would believe it.
    """
    experiment, prepared = session.experiment, session.prepared
    assert prepared is not None, "a profile is of a model"
    spec = experiment.profile
    conditions = cycle_conditions(
        experiment, spec.rate, spec.queries, role, directions=session.directions
    )
    name = role.replace("device", "profile", 1)
    planned = cycle_run(experiment, name, experiment.batch, experiment.seed)
    manifest = run_one(session, planned, conditions)
    for _ in range(experiment.run.repeat_disturbed):
        if manifest["state"] != "complete" or not manifest["disturbed"]:
            break
        set_aside(session.folder / name)
        manifest = run_one(session, planned, conditions)
    profile = profile_from_records(
        cycle_records(session.folder / name, manifest),
        candidates=session.plan.candidates,
        up_bps=spec.rate,
    )
    return profile | describe_profile(
        experiment, prepared.archive_sha256, experiment.batch, spec.rate
    )
