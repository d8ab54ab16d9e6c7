"""Any CSV with a header: named columns, their unit, and a column of times."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone

from testbed.errors import UserError
from testbed.traces.importers.format import Format, Reading
from testbed.traces.importers.samples import Points
from testbed.traces.importers.source import UNITS_BPS, BadLine, Request, Source, Table, number
from testbed.traces.trace import SECOND_NS

_TIME_NS = {"s": SECOND_NS, "ms": 10**6, "us": 10**3, "ns": 1}
TIME_UNITS = (*_TIME_NS, "iso")


def read(source: Source, request: Request) -> Reading:
    """A row's rates hold until the next row; an empty cell, ``-`` or ``nan`` is a gap.

    Raises UserError where the columns, their unit or the unit of time are not said.
    """
    if not request.columns or None in (request.unit, request.time, request.time_unit):
        raise UserError(
            f"{source.path}: a CSV of your own needs --up-column or --down-column (or both), "
            f"--unit ({', '.join(UNITS_BPS)}), --time COLUMN and --time-unit "
            f"({', '.join(TIME_UNITS)})"
        )
    directions = tuple(d for d in ("up", "down") if d in request.columns)
    wanted = (str(request.time), *(request.columns[d] for d in directions))
    factor = UNITS_BPS[str(request.unit)]
    read_time = _time_reader(str(request.time_unit))
    points = Points()
    for line_number, (stamp, *cells) in Table(source, wanted).rows():
        with source.judge(line_number):
            missing = any(cell.lower() in ("", "-", "nan", "na") for cell in cells)
            rates = None if missing else tuple(round(number(cell) * factor) for cell in cells)
            points.add(line_number, read_time(stamp), rates)
    return Reading(points.segments(), directions=directions)


def _time_reader(unit: str) -> Callable[[str], int]:
    if unit == "iso":
        return _iso_ns
    return lambda stamp: round(number(stamp, f"a time in {unit}") * _TIME_NS[unit])


def _iso_ns(stamp: str) -> int:
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError:
        raise BadLine("a time such as 2026-01-31T12:00:00.5", stamp) from None
    # Local times are taken as UTC: only differences count, and no hour is folded.
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    since = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return ((since.days * 86_400 + since.seconds) * 10**6 + since.microseconds) * 1000


FORMAT = Format(
    name="csv",
    about="any CSV with a header: columns, unit and time column are named by the caller",
    source="not told by the file",
    licence="not told by the file",
    method="each row's rates hold until the next, two median steps at most",
    counts="not told by the file; taken as IP bytes",
    recognise=lambda head: False,  # any table looks like one: the caller must say so
    read=read,
    takes=frozenset({"gaps", "unit", "columns", "time", "time_unit"}),
)
