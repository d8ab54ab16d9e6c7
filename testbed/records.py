"""Versions and names of what a run leaves behind (the contract with ``analysis/``)."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path, PurePath
from typing import Any

from testbed.errors import NewerRelease, TestbedError, UserError

SCHEMA_VERSION = 1

# Record streams of a run folder, one JSON object a line, written as they happen.
STREAMS = ("queries", "link", "load", "server")

# Written last, with the checksums of everything else; in a campaign's folder and in each run's.
MANIFEST = "manifest.json"
# In a campaign's folder, yet no record: derived, or only of use while it runs.
LOCK = ".lock"
NOT_RECORDS = ("report", "campaign.log", LOCK)


def belongs_to_records(name: PurePath) -> bool:
    """Whether a file, by its path in the campaign's folder, is vouched for by its manifest."""
    first = name.parts[0]
    return not any(first == n or first.startswith(f"{n}.") for n in NOT_RECORDS)


def cannot_write(path: Path, error: OSError) -> TestbedError:
    """What is told when the disk takes no more; what was written before is whole."""
    return TestbedError(
        f"{path}: cannot be written: {error.strerror}; what was measured so far is kept: "
        "free some space, then go on with: testbed run --resume CAMPAIGN"
    )


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document whole or not at all (temporary file, fsync, rename).

    Raises TestbedError where the disk takes no more; the document that was there stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w") as stream:
            json.dump({"schema_version": SCHEMA_VERSION, **document}, stream, indent=1)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def read_json(
    path: Path, *needs: str, remedy: str = "give the whole folder of a campaign of this testbed"
) -> dict[str, Any]:
    """A document as :func:`write_json` writes it, with the keys that it ``needs``.

    Raises UserError, in one line with the ``remedy``, where it is missing, cut short, no such
    document, and NewerRelease where a newer release wrote it.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: expected a JSON document, got what breaks off or is none ({error}); {remedy}"
        ) from error
    if not isinstance(document, dict):
        kind = type(document).__name__
        raise UserError(f"{path}: expected a JSON object, got a {kind}; {remedy}")
    version = document.get("schema_version")
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        raise (NewerRelease if newer else UserError)(
            f"{path}: schema_version: this release reads up to {SCHEMA_VERSION}, got {version!r}; "
            f"use the testbed release that wrote it or a newer one, or {remedy}"
        )
    if missing := [key for key in needs if key not in document]:
        raise UserError(f"{path}: expected the key {missing[0]!r}, got none; {remedy}")
    return document


def sha256_file(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
