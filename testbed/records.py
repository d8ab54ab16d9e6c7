"""Versions and names of what a run leaves behind (the contract with ``analysis/``)."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1

# Record streams of a run folder, one JSON object a line, written as they happen.
STREAMS = ("queries", "link", "load", "server")


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document whole or not at all (temporary file, fsync, rename)."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as stream:
        json.dump({"schema_version": SCHEMA_VERSION, **document}, stream, indent=1)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def sha256_file(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
