"""Reads the JSON files of a campaign, each kind with its schema version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from testbed.errors import UserError
from testbed.records import SCHEMA_VERSION

Document = dict[str, Any]


def read_document(path: Path) -> Document:
    """One JSON document; UserError where it is broken or of a newer release."""
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: expected a JSON document, got: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version: this release reads up to {SCHEMA_VERSION}, got {version!r}; "
            "make the report with the testbed release that wrote the campaign, or a newer one"
        )
    return dict(document)


def read_optional(path: Path) -> Document | None:
    """The document, or None where there is no such file."""
    return read_document(path) if path.is_file() else None


def read_stream(path: Path) -> tuple[list[Document], int]:
    """Records of a JSON-lines file, and how many lines were lost (a cut last line: 0 or 1).

    A line that is broken before the last one is not a cut but damage: UserError.
    """
    if not path.is_file():
        return [], 0
    lines = path.read_text(errors="replace").split("\n")
    records: list[Document] = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                return records, 1
            raise UserError(
                f"{path}:{number}: expected one JSON object a line, got {line[:40]!r}; "
                "take the run's folder away to report the others"
            ) from error
    return records, 0
