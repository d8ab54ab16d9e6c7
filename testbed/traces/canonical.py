"""The canonical form on disk: the testbed's own CSV, and the sidecar that tells its origin."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from testbed.errors import UserError
from testbed.traces.numbers import parse_number, shown
from testbed.traces.trace import SECOND_NS, BandwidthTrace

_RATE_COLUMNS = ("up_bps", "down_bps")
_MAX_S = 10**7  # four months: more is a wrong unit (a trace in ms, or unix times)


def save_trace(trace: BandwidthTrace, path: Path) -> None:
    """Write the testbed's own CSV, with an end marker; :func:`read_csv` reads it back equal."""
    if path.suffix != ".csv":
        raise UserError(f"{path}: expected a name ending in .csv, got {path.name}")
    columns = [c for c in _RATE_COLUMNS if getattr(trace, c) is not None]
    rows = zip(trace.t_ns, *(getattr(trace, column) for column in columns), strict=True)
    lines = [
        f"# source: {trace.source}",
        ",".join(("t_s", *columns)),
        *(",".join((_seconds(t_ns), *map(str, rates))) for t_ns, *rates in rows),
        _seconds(trace.duration_ns) + "," * len(columns),
    ]
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def sidecar_path(path: Path) -> Path:
    """Where the origin of a trace file is told: ``drive.csv.json`` beside ``drive.csv``."""
    return path.with_name(path.name + ".json")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """The sidecar of a trace file, None where it has none; UserError where it is not JSON."""
    beside = sidecar_path(path)
    if not beside.is_file():
        return None
    try:
        told: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{beside}: expected the JSON of trace convert: {error}") from error
    return told


def save_imported(trace: BandwidthTrace, sidecar: dict[str, Any], path: Path) -> None:
    """Write a trace and its sidecar."""
    save_trace(trace, path)
    sidecar_path(path).write_text(json.dumps(sidecar, indent=1) + "\n", encoding="utf-8")


def _seconds(t_ns: int) -> str:
    return f"{t_ns // SECOND_NS}.{t_ns % SECOND_NS:09d}".rstrip("0").rstrip(".")


def _refuse(path: Path, line: int, expected: str, actual: str) -> NoReturn:
    raise UserError(f"{path}:{line}: expected {expected}, got {shown(actual)}")


def read_csv(path: Path, lines: list[str]) -> BandwidthTrace:
    """The testbed's own CSV from its lines; UserError names file, line, and what was expected."""
    source = path.name
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate(lines, start=1):
        if line.startswith("#"):
            key, _, value = line[1:].partition(":")
            source = value.strip() if key.strip() == "source" else source
        elif line.strip():
            rows.append((number, [cell.strip() for cell in line.split(",")]))
    columns = _columns(path, rows)
    times, rates = _cells(path, rows[1:], len(columns))
    if len(rates) == len(times):  # no end marker: the last step lasts as long as the one before
        if len(times) < 2:
            raise UserError(
                f"{path}:{rows[-1][0]}: expected at least two rows, or an end marker (a time with "
                "empty rates) that says how long the rate holds"
            )
        times.append(2 * times[-1] - times[-2])
    by_column = dict(zip(columns, zip(*rates, strict=True), strict=True))
    return BandwidthTrace(
        tuple(times[:-1]), by_column.get("up_bps"), by_column.get("down_bps"), times[-1], source
    )


def _columns(path: Path, rows: list[tuple[int, list[str]]]) -> list[str]:
    number, header = rows[0] if rows else (1, [""])
    columns = header[1:]
    if header[0] != "t_s" or not columns or not set(columns) <= set(_RATE_COLUMNS):
        told = "the header t_s,up_bps,down_bps (or one rate; of others: testbed trace convert)"
        _refuse(path, number, told, ",".join(header))
    if len(set(columns)) != len(columns):
        _refuse(path, number, "each rate once", ",".join(header))
    if len(rows) == 1:
        _refuse(path, number + 1, "a row of numbers", "the end of the file")
    return columns


def _cells(
    path: Path, rows: list[tuple[int, list[str]]], width: int
) -> tuple[list[int], list[list[int]]]:
    """Times in ns and rates of each row; an end marker gives a time without rates."""
    times: list[int] = []
    rates: list[list[int]] = []
    for index, (number, cells) in enumerate(rows):
        if len(cells) != width + 1:
            _refuse(path, number, f"{width + 1} values", ",".join(cells))
        seconds = _number(path, number, cells[0])
        t_ns = round(seconds * SECOND_NS)
        if seconds > _MAX_S or (t_ns <= times[-1] if times else t_ns != 0):
            expected = f"a time in s after {_seconds(times[-1])}" if times else "the first time 0"
            _refuse(path, number, expected, cells[0])
        times.append(t_ns)
        if any(cells[1:]) or not 0 < index == len(rows) - 1:
            rates.append([round(_number(path, number, cell)) for cell in cells[1:]])
    return times, rates


def _number(path: Path, line: int, text: str) -> Decimal:
    number = parse_number(text)
    if number is None:
        _refuse(path, line, "a number of 0 or more", text)
    return number
