"""Whether a campaign's folder is whole and as it was written: checksums, schemas, counts, times."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from analysis.documents import Document, read_optional
from analysis.record_faults import RECORDS, record_faults
from analysis.streams import parse_stream
from testbed.errors import NewerRelease, UserError
from testbed.records import MANIFEST, STREAMS, belongs_to_records, read_json, sha256_file

_READERS = 4
_PLAN, _CAMPAIGN = "plan.json", "campaign.json"

# Without them nobody knows what was asked for, or that link and splits did what they should.
PROOFS = (
    *(MANIFEST, _CAMPAIGN, "experiment.resolved.json"),
    *("verify.json", "link_verification.json"),
)


@dataclass
class Audit:
    """What was looked at and what is wrong with it; no fault means that the folder is whole."""

    folder: str
    runs: int = 0
    records: int = 0
    bytes: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def audit(folder: Path) -> Audit:
    """Check a campaign's folder, or one run's; reads every record, writes nothing.

    What is broken is a fault, and the rest is checked all the same. Raises UserError for a folder
    that is neither, and for a document of a newer release.
    """
    found = Audit(str(folder))
    if (folder / _PLAN).is_file():
        return _audit_run(folder, folder.name)
    if not (folder / _CAMPAIGN).is_file():
        raise UserError(
            f"{folder}: expected a campaign folder (campaign.json) or a run folder (plan.json), "
            "found neither; give the folder that the run printed"
        )
    files = _files(folder)
    names = [os.path.dirname(name) for name in files if name.endswith(f"/{_PLAN}")]
    _audit_campaign(folder, files, names, found)
    # Hashing and parsing leave the interpreter free, so runs are read beside each other.
    with ThreadPoolExecutor(_READERS) as pool:
        for part in pool.map(_audit_run, [folder / name for name in names], names):
            found.runs += part.runs
            found.records += part.records
            found.bytes += part.bytes
            found.faults += part.faults
            found.notes += part.notes
    return found


def _audit_campaign(folder: Path, files: list[str], runs: list[str], found: Audit) -> None:
    campaign = _document(folder, _CAMPAIGN, _CAMPAIGN, found, "state", "runs")
    if campaign and campaign["state"] != "complete":
        found.notes.append(f"{_CAMPAIGN}: the campaign is {campaign['state']}")
    _check_states(campaign.get("runs", []), set(runs), found)
    if MANIFEST not in files:
        found.faults.append(
            f"{MANIFEST} is missing: the campaign is running or was killed, or the file was taken "
            "away, and nothing vouches for the campaign's own files; "
            "go on with: testbed run --resume FOLDER"
        )
        return
    manifest = _document(folder, MANIFEST, MANIFEST, found, "checksums")
    if not manifest:
        return
    checksums = _told(manifest, "checksums", MANIFEST, found)
    for name, digest in checksums.items():
        _check(folder / name, name, digest, found)
    covered = {os.path.dirname(name) for name in checksums if name.endswith(f"/{MANIFEST}")}
    for name in files:
        path = PurePath(name)
        inside = any(str(parent) in covered for parent in path.parents)
        if not inside and name not in checksums and name != MANIFEST and belongs_to_records(path):
            found.faults.append(f"{name}: not written by the campaign")


def _check_states(told: Any, begun: set[str], found: Audit) -> None:
    """Hold what ``campaign.json`` says of each run against the folders that are there."""
    runs = told if isinstance(told, list) else [told]
    for run in runs:
        try:
            run_id, state = str(run["run_id"]), run["state"]
        except (KeyError, TypeError):
            found.faults.append(f"{_CAMPAIGN}: runs: expected run_id and state of each, got {run}")
            continue
        if state is not None and run_id not in begun:
            found.faults.append(f"{run_id}: {_CAMPAIGN} says {state}, no folder")
        elif state != "complete":
            found.notes.append(f"{run_id}: {state or 'not begun'}")


def proof_faults(folder: Path) -> list[str]:
    """What of a campaign's own proofs is missing, or was changed since it ended; runs apart."""
    found = Audit(str(folder))
    found.faults += [f"{name}: missing" for name in PROOFS if not (folder / name).is_file()]
    manifest = read_optional(folder / MANIFEST, "checksums") or {}
    for name, digest in manifest.get("checksums", {}).items():
        if "/" not in name and (folder / name).is_file():
            _check(folder / name, name, digest, found)
    return found.faults


def _files(folder: Path) -> list[str]:
    """The names of all files below a folder, relative to it, in order."""
    names: list[str] = []
    for base, _, inside in os.walk(folder):
        below = os.path.relpath(base, folder)
        names += inside if below == "." else [f"{below}/{name}" for name in inside]
    return sorted(names)


def _document(folder: Path, file: str, name: str, found: Audit, *needs: str) -> Document:
    """A document; empty, with a fault, where it is none. Raises NewerRelease."""
    path = folder / file
    try:
        return read_json(path, *needs, remedy="restore it from where it was measured")
    except NewerRelease:
        raise
    except UserError as error:
        found.faults.append(f"{name}{str(error).removeprefix(str(path))}")
        return {}


def _told(manifest: Document, key: str, name: str, found: Audit) -> Document:
    """What a manifest tells by file or stream; empty, with a fault, where it is no object."""
    told = manifest.get(key, {})
    if isinstance(told, dict):
        return told
    found.faults.append(f"{name}: {key}: expected an object, got a {type(told).__name__}")
    return {}


def _check(path: Path, name: str, digest: str, found: Audit) -> None:
    try:
        if sha256_file(path) != digest:
            found.faults.append(f"{name}: changed since it was written")
        found.bytes += path.stat().st_size
    except FileNotFoundError:
        found.faults.append(f"{name}: missing")
    except OSError as error:
        found.faults.append(f"{name}: cannot be read: {error.strerror}")


def _audit_run(folder: Path, name: str) -> Audit:
    found = Audit(str(folder), runs=1)
    files = _files(folder)
    manifest: Document = {}
    if MANIFEST in files:
        needs = ("checksums", "counts")
        manifest = _document(folder, MANIFEST, f"{name}/{MANIFEST}", found, *needs)
    else:
        found.notes.append(f"{name}: no manifest, so it was cut short")
    checksums = _told(manifest, "checksums", f"{name}/{MANIFEST}", found)
    counts = _told(manifest, "counts", f"{name}/{MANIFEST}", found)
    streams = {f"{stream}.jsonl": stream for stream in STREAMS}
    for file, digest in checksums.items():
        if file not in files or file not in streams:
            _check(folder / file, f"{name}/{file}", digest, found)
    for file in files:
        if manifest and file not in checksums and file != MANIFEST:
            found.faults.append(f"{name}/{file}: not written by the run")
        if file.endswith(".json") and file != MANIFEST:
            _document(folder, file, f"{name}/{file}", found)
        elif file in streams:
            told = (checksums.get(file), counts.get(streams[file]))
            _audit_stream(folder / file, f"{name}/{file}", manifest, told, found)
    return found


def _audit_stream(
    path: Path, name: str, manifest: Document, told: tuple[Any, Any], found: Audit
) -> None:
    """Check one stream; ``told`` are its checksum and count by the manifest, None where not."""
    digest, count = told
    try:
        lines = path.read_bytes()
    except OSError as error:
        found.faults.append(f"{name}: cannot be read: {error.strerror}")
        return
    found.bytes += len(lines)
    if digest is not None and hashlib.sha256(lines).hexdigest() != digest:
        found.faults.append(f"{name}: changed since it was written")
    try:
        table, lost = parse_stream(Path(name), lines, RECORDS[path.stem])
    except UserError as error:
        found.faults.append(str(error))
        return
    found.records += len(table)
    if lost:
        (found.faults if manifest else found.notes).append(f"{name}: the last line is cut")
    if count is not None and count != len(table):
        found.faults.append(f"{name}: {count} records by the manifest, {len(table)} in the file")
    found.faults += [f"{name}: {fault}" for fault in record_faults(path.stem, table, manifest)]
