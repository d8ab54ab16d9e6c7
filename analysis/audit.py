"""Whether a campaign's folder is whole and as it was written: checksums, schemas, counts, times."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analysis.documents import Document, read_optional
from analysis.streams import parse_stream, schema
from testbed.errors import UserError
from testbed.records import MANIFEST, STREAMS, belongs_to_records, read_json, sha256_file

_READERS = 4

# Without them nobody knows what was asked for, or that link and splits did what they should.
PROOFS = (
    *(MANIFEST, "campaign.json", "experiment.resolved.json"),
    *("verify.json", "link_verification.json"),
)
_RECORDS = {
    "queries": schema(text="run_id device kind status", whole="query t_due_ns t_start_ns e2e_ns"),
    "link": schema(text="direction", whole="t_planned_ns t_applied_ns t_ns"),
    "load": schema(whole="t_ns"),
    "server": schema(text="event", whole="t_ns"),
}


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

    Raises UserError for a folder that is neither, and for records of a newer release.
    """
    found = Audit(str(folder))
    if (folder / "plan.json").is_file():
        return _audit_run(folder, folder.name, str(folder))
    if not (folder / "campaign.json").is_file():
        raise UserError(
            f"{folder}: expected a campaign folder (campaign.json) or a run folder (plan.json), "
            "found neither; give the folder that the run printed"
        )
    runs = [path.parent for path in sorted(folder.rglob("plan.json"))]
    _audit_campaign(folder, runs, found)
    # Hashing and parsing leave the interpreter free, so runs are read beside each other.
    with ThreadPoolExecutor(_READERS) as pool:
        names = [str(run.relative_to(folder)) for run in runs]
        for part in pool.map(_audit_run, runs, names, names):
            found.runs += part.runs
            found.records += part.records
            found.bytes += part.bytes
            found.faults += part.faults
            found.notes += part.notes
    return found


def _audit_campaign(folder: Path, runs: list[Path], found: Audit) -> None:
    campaign = read_json(folder / "campaign.json", "state", "runs")
    if campaign["state"] != "complete":
        found.notes.append(f"campaign.json: the campaign is {campaign['state']}")
    begun = {run.name for run in runs if run.parent == folder}
    for run in campaign["runs"]:
        if run["state"] is not None and run["run_id"] not in begun:
            found.faults.append(f"{run['run_id']}: campaign.json says {run['state']}, no folder")
        elif run["state"] != "complete":
            found.notes.append(f"{run['run_id']}: {run['state'] or 'not begun'}")
    if not (folder / MANIFEST).is_file():
        found.faults.append(
            f"{MANIFEST} is missing: the campaign is running or was killed, or the file was taken "
            "away, and nothing vouches for the campaign's own files; "
            "go on with: testbed run --resume FOLDER"
        )
        return
    checksums = read_json(folder / MANIFEST, "checksums")["checksums"]
    vouched = {Path(name) for name in (*checksums, MANIFEST)}
    for name, digest in checksums.items():
        _check(folder / name, name, digest, found)
    covered = {Path(name).parent for name in checksums if name.endswith(f"/{MANIFEST}")}
    for path in _files(folder):
        name = path.relative_to(folder)
        inside = any(parent in covered for parent in name.parents)
        if name not in vouched and not inside and belongs_to_records(name):
            found.faults.append(f"{name}: not written by the campaign")


def proof_faults(folder: Path) -> list[str]:
    """What of a campaign's own proofs is missing, or was changed since it ended; runs apart."""
    found = Audit(str(folder))
    found.faults += [f"{name}: missing" for name in PROOFS if not (folder / name).is_file()]
    manifest = read_optional(folder / MANIFEST, "checksums") or {}
    for name, digest in manifest.get("checksums", {}).items():
        if "/" not in name and (folder / name).is_file():
            _check(folder / name, name, digest, found)
    return found.faults


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _check(path: Path, name: str, digest: str, found: Audit) -> None:
    if not path.is_file():
        found.faults.append(f"{name}: missing")
    elif sha256_file(path) != digest:
        found.faults.append(f"{name}: changed since it was written")
    if path.is_file():
        found.bytes += path.stat().st_size


def _audit_run(folder: Path, name: str, told: str) -> Audit:
    found = Audit(told, runs=1)
    read_json(folder / "plan.json")
    manifest: Document = {}
    if (folder / MANIFEST).is_file():
        manifest = read_json(folder / MANIFEST, "checksums", "counts")
    else:
        found.notes.append(f"{name}: no manifest, so it was cut short")
    checksums: dict[str, str] = manifest.get("checksums", {})
    streams = {f"{stream}.jsonl": stream for stream in STREAMS}
    for file, digest in checksums.items():
        if file not in streams:
            _check(folder / file, f"{name}/{file}", digest, found)
        elif not (folder / file).is_file():
            found.faults.append(f"{name}/{file}: missing")
    if manifest:
        extra = {str(p.relative_to(folder)) for p in _files(folder)} - {*checksums, MANIFEST}
        found.faults += [f"{name}/{file}: not written by the run" for file in sorted(extra)]
    for path in _files(folder):
        if path.suffix == ".json":
            read_json(path)
    for file, stream in streams.items():
        if (folder / file).is_file():
            _audit_stream(folder / file, f"{name}/{file}", stream, manifest, found)
    return found


def _audit_stream(path: Path, name: str, stream: str, manifest: Document, found: Audit) -> None:
    lines = path.read_bytes()
    found.bytes += len(lines)
    wanted = manifest.get("checksums", {}).get(path.name)
    if wanted is not None and hashlib.sha256(lines).hexdigest() != wanted:
        found.faults.append(f"{name}: changed since it was written")
    try:
        table, lost = parse_stream(path, lines, _RECORDS[stream])
    except UserError as error:
        found.faults.append(str(error))
        return
    found.records += len(table)
    if lost:
        (found.faults if manifest else found.notes).append(f"{name}: the last line is cut")
    told = manifest.get("counts", {}).get(stream)
    if told is not None and told != len(table):
        found.faults.append(f"{name}: {told} records by the manifest, {len(table)} in the file")
    checks = _query_faults(table, manifest) if stream == "queries" else _time_faults(stream, table)
    found.faults += [f"{name}: {fault}" for fault in checks]


def _query_faults(table: pa.Table, manifest: Document) -> Iterator[str]:
    for column in _RECORDS["queries"].names:
        if table[column].null_count:
            yield f"{table[column].null_count} records without {column}"
            return
    measured = table.filter(pc.equal(table["kind"], "measured"))
    devices = pc.unique(table["device"]).to_pylist()
    for device in devices:
        where = f"{device}: " if len(devices) > 1 else ""
        numbers = np.sort(table.filter(pc.equal(table["device"], device))["query"].to_numpy())
        if not np.array_equal(numbers, np.arange(len(numbers))):
            yield f"{where}queries are missing or double: expected each number once from 0 on"
        own = measured.filter(pc.equal(measured["device"], device))
        order = np.argsort(own["query"].to_numpy())
        if (np.diff(own["t_due_ns"].to_numpy()[order]) < 0).any():
            yield f"{where}t_due_ns goes back in time"
    told = [done["queries"] for role, done in manifest.items() if _is_device(role, done)]
    if told and sum(told) != len(measured):
        yield f"{sum(told)} queries were due, {len(measured)} are recorded"
    if (measured["e2e_ns"].to_numpy() < 0).any():
        yield "e2e_ns: negative durations"


def _is_device(role: str, done: Any) -> bool:
    return (role == "device" or role.startswith("device-")) and "queries" in done


def _time_faults(stream: str, table: pa.Table) -> Iterator[str]:
    if stream != "link":
        groups = [("t_ns", table)]
    else:
        sides = [table.filter(pc.equal(table["direction"], s)) for s in ("uplink", "downlink")]
        groups = [(column, side) for side in sides for column in ("t_planned_ns", "t_applied_ns")]
    for column, rows in groups:
        if (np.diff(rows[column].drop_null().to_numpy()) < 0).any():
            yield f"{column} goes back in time"
