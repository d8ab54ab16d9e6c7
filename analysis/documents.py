"""The JSON files of a campaign, each kind with its schema version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testbed.records import read_json

Document = dict[str, Any]


def read_optional(path: Path, *needs: str) -> Document | None:
    """The document as :func:`read_json` gives it, or None where there is no such file."""
    return read_json(path, *needs) if path.is_file() else None
