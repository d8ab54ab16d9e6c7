"""What a profile is true for, and where profiles are kept between campaigns."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import testbed
from testbed.orchestrator.evidence import environments
from testbed.orchestrator.inputs import PICTURES
from testbed.orchestrator.session import Session
from testbed.records import read_json, sha256_file, write_json

# What of a host decides how long a head or tail takes there.
_HOST_FACTS = (
    *("hostname", "machine", "cpu_model", "cpu_count", "governor", "memory_bytes", "gpus"),
    *("kernel", "python", "torch", "cpu_limit"),
)
# Rooms whose code is timed: another release of them is another engine.
_TIMED_ROOMS = ("model", "worker")


def profile_key(session: Session) -> dict[str, Any]:
    """Everything that must be the same for a profile to be used again, readable as it is."""
    experiment, prepared = session.experiment, session.prepared
    assert prepared is not None, "a profile is of a model"
    found, pictures = environments(session), session.folder / PICTURES
    hosts = {
        role: _facts_of(session, found, session.host_of(role)) for role in ("device", "server")
    }
    return {
        "archive_sha256": prepared.archive_sha256,
        "candidates": list(session.plan.candidates),
        "encoding": experiment.encoding.model_dump(mode="json"),
        "inputs": sha256_file(pictures) if pictures.is_file() else experiment.inputs,
        "model": experiment.model.model_dump(mode="json"),
        "engine": {
            "torch": hosts["device"]["torch"],
            "code": _code_digest(),
            **experiment.engine.model_dump(),
        },
        "hosts": hosts,
    }


def _facts_of(
    session: Session, found: Mapping[str, Mapping[str, Any]], host: str
) -> dict[str, Any]:
    spec = session.inventory.hosts[host]
    facts = {fact: found[host][fact] for fact in _HOST_FACTS}
    facts["archive_sha256"] = session.models.on(host).archive_sha256
    return {**facts, "threads": spec.threads, "accelerator": spec.accelerator}


def alike_devices(session: Session) -> dict[str, str]:
    """Each device's host to the first one that is its like, and whose profile serves for both."""
    found = environments(session)
    firsts: dict[str, str] = {}
    likes = {}
    for host in session.device_roles.values():
        facts = {**_facts_of(session, found, host), "hostname": None}
        likes[host] = firsts.setdefault(json.dumps(facts, sort_keys=True), host)
    return likes


def _code_digest() -> str:
    root = Path(testbed.__file__).parent
    files = sorted(path for room in _TIMED_ROOMS for path in (root / room).rglob("*.py"))
    told = [(str(path.relative_to(root)), sha256_file(path)) for path in files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def key_digest(key: dict[str, Any]) -> str:
    """The key's name on disk."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def default_profiles() -> Path:
    """Where profiles are kept: ``$XDG_CACHE_HOME/testbed/profiles``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "testbed/profiles"


def store_profile(profile: dict[str, Any], root: Path | None = None) -> Path:
    """Keep a profile under its key, in place of an older one; returns the file."""
    folder = root if root is not None else default_profiles()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key_digest(profile['key'])}.json"
    write_json(path, profile)
    return path


def find_profile(
    key: dict[str, Any], batch: int, root: Path | None = None
) -> tuple[Path, dict[str, Any]] | None:
    """A kept profile of exactly this key for a batch size, with its file; None where there is none.

    Raises UserError for a kept file that is broken or of a newer release.
    """
    path = (root if root is not None else default_profiles()) / f"{key_digest(key)}.json"
    if not path.is_file():
        return None
    profile = read_profile(path)
    found = profile["batches"].get(str(batch))
    if profile["key"] != key or found is None:
        return None
    return path, found


def read_profile(path: Path) -> dict[str, Any]:
    """A profile document with its ``batches``; a campaign's own profile is one of one batch.

    Raises UserError for a file that is no profile of this release.
    """
    remedy = "give a profile.json, or make one: testbed profile EXPERIMENT"
    document = read_json(path, remedy=remedy)
    if "batches" in document:
        return document
    own = read_json(path, "batch", "candidates", remedy=remedy)
    return {**own, "batches": {str(own["batch"]): own}}
