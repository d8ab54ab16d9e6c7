"""The JSON files of a campaign, each kind with its schema version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.errors import UserError
from testbed.records import read_json

Document = dict[str, Any]


def read_optional(path: Path, *needs: str) -> Document | None:
    """The document as :func:`read_json` gives it, or None where there is no such file."""
    return read_json(path, *needs) if path.is_file() else None


def check_kinds(path: Path, document: Document, kinds: Mapping[str, type]) -> None:
    """Raise UserError where one of a document's values, if it is there, is of another type."""
    for key, kind in kinds.items():
        value = document.get(key, kind())
        if not isinstance(value, kind):
            raise UserError(
                f"{path}: {key}: expected {kind.__name__}, got {type(value).__name__}; "
                "restore the file from where it was measured"
            )
