"""Reads record streams into columns: fast where they are whole, exact where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.json

from testbed.errors import UserError

_BLOCK_BYTES = 1 << 20  # of the parser; a record is far smaller


def schema(text: str = "", whole: str = "", real: str = "", truth: str = "") -> pa.Schema:
    """Columns by name: text, whole numbers, real numbers, truths; all may be null."""
    kinds = ((text, pa.string()), (whole, pa.int64()), (real, pa.float64()), (truth, pa.bool_()))
    return pa.schema([(name, kind) for names, kind in kinds for name in names.split()])


def parse_stream(path: Path, lines: bytes, columns: pa.Schema) -> tuple[pa.Table, int]:
    """The wanted columns of JSON lines, and how many lines were lost (a cut last line: 0 or 1).

    Args:
        path: named in errors only.
        lines: the file's bytes.
        columns: what to read; other fields are checked as JSON and left out, missing ones null.

    A line that is broken before the last one is not a cut but damage: UserError.
    """
    whole, lost = lines, 0
    if lines and not lines.endswith(b"\n"):
        whole, _, last = lines.rpartition(b"\n")
        try:
            json.loads(last)
            whole = lines
        except ValueError:
            lost = 1
    if not whole.strip():
        return columns.empty_table(), lost
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(whole),
            read_options=pyarrow.json.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=columns, unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid as error:
        raise _damage(path, whole, str(error)) from error
    return table.select(columns.names), lost


def _damage(path: Path, lines: bytes, found: str) -> UserError:
    for number, line in enumerate(lines.split(b"\n"), 1):
        try:
            fine = not line or isinstance(json.loads(line), dict)
        except ValueError:
            fine = False
        if not fine:
            shown = line[:40].decode(errors="replace")
            return UserError(
                f"{path}:{number}: expected one JSON object a line, got {shown!r}; "
                "take the run's folder away to report the others"
            )
    return UserError(f"{path}: expected the fields of a record, got: {found}")
