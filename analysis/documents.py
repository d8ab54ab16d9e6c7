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
