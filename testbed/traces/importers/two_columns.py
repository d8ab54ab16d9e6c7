"""Oboe and Pensieve's cooked traces: two numbers a line, a time and a rate, in other units."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise
from statistics import median_low

from testbed.errors import UserError
from testbed.traces.importers.format import Format, Reading
from testbed.traces.importers.samples import Segment
from testbed.traces.importers.source import (
    UNITS_BPS,
    BadLine,
    Request,
    Source,
    is_number,
    number,
)
from testbed.traces.trace import SECOND_NS

_MS_NS = 10**6
# Oboe's chunks last seconds, told in ms; cooked traces step by seconds, told in s.
_COOKED_STEP_MAX = 60


def _columns(head: list[str]) -> list[tuple[float, str]]:
    """Times and rates as written; none where any line is something else, or times fall."""
    rows = [line.split() for line in head]
    if len(rows) < 2 or not all(len(row) == 2 and all(map(is_number, row)) for row in rows):
        return []
    times = [float(row[0]) for row in rows]
    return [(float(t), rate) for t, rate in rows] if times == sorted(times) else []


def _in_pairs(rows: list[tuple[float, str]]) -> bool:
    pairs = zip(rows[::2], rows[1::2], strict=False)
    return len(rows) > 1 and all(first[1] == second[1] for first, second in pairs)


def _long_steps(rows: list[tuple[float, str]]) -> bool:
    steps = [after[0] - before[0] for before, after in pairwise(rows)]
    return bool(steps) and median_low(steps) > _COOKED_STEP_MAX


def recognise_oboe(head: list[str]) -> bool:
    """Lines in pairs of one rate; with short steps it may as well be a cooked trace."""
    return _in_pairs(_columns(head))


def recognise_cooked(head: list[str]) -> bool:
    """Two rising columns, unless they are in pairs so far apart that the times are ms."""
    rows = _columns(head)
    return bool(rows) and not (_in_pairs(rows) and _long_steps(rows))


def _numbers(line: str, rate_unit: str) -> tuple[Decimal, Decimal]:
    cells = line.split()
    if len(cells) != 2:
        raise BadLine(f"two numbers, a time and a rate in {rate_unit}", line)
    return number(cells[0], "a time of 0 or more"), number(cells[1], f"a rate in {rate_unit}")


def read_oboe(source: Source, request: Request) -> Reading:
    """``t1 b``, ``t2 b`` in ms and kbit/s: a chunk each; between two chunks nothing is known."""
    segments: list[Segment] = []
    opened: tuple[int, Decimal] | None = None
    line_number = 0
    for line_number, line in source.lines():
        with source.judge(line_number):
            chunk, opened = opened, None  # a malformed line takes its pair with it
            t_ms, rate_kbps = _numbers(line, "kbit/s")
            t_ns = round(t_ms * _MS_NS)
            if chunk is None:
                if segments and t_ns < segments[-1].end_ns:
                    raise BadLine("a chunk that starts after the one before", line)
                opened = (t_ns, rate_kbps)
                continue
            if t_ns <= chunk[0] or rate_kbps != chunk[1]:
                raise BadLine("the end of the chunk of the line before, at its rate", line)
            segments.append(Segment(chunk[0], t_ns, (round(rate_kbps * 1000),), line_number))
    if opened is not None:
        with source.judge(line_number):
            raise BadLine("a line with the chunk's end", "the end of the file")
    return Reading(segments)


def read_cooked(source: Source, request: Request) -> Reading:
    """A line's rate is of the time since the line before, as Pensieve's simulator takes it.

    The first line marks the start. Copies made from Puffer hold MB/s where their README says
    Mbit/s, so that a file of that name needs the unit said.
    """
    if request.unit is None and "puffer" in f"{source.path.parent.name} {source.path.name}".lower():
        raise UserError(
            f"{source.path}: expected a unit: cooked copies of Puffer are known in MB/s though "
            "they say Mbit/s; say --unit MB/s or --unit Mbit/s"
        )
    unit = request.unit or "Mbit/s"
    segments: list[Segment] = []
    before_ns: int | None = None
    for line_number, line in source.lines():
        with source.judge(line_number):
            seconds, rate = _numbers(line, unit)
            t_ns = round(seconds * SECOND_NS)
            if before_ns is not None:
                if t_ns <= before_ns:
                    raise BadLine("a time after that of the line before", line)
                segments.append(
                    Segment(before_ns, t_ns, (round(rate * UNITS_BPS[unit]),), line_number)
                )
            before_ns = t_ns
    return Reading(segments)


OBOE = Format(
    name="oboe",
    about="video sessions of Conviva (Akhtar et al., SIGCOMM 2018)",
    source="https://github.com/USC-NSL/Oboe",
    licence="none stated; made available for research",
    method="each chunk's mean rate from its start to its end; between chunks there are gaps",
    counts="payload of HTTP, taken as IP bytes",
    recognise=recognise_oboe,
    read=read_oboe,
    direction="down",
    takes=frozenset({"gaps"}),
)
COOKED = Format(
    name="cooked",
    about="Pensieve's cooked form, used by most adaptive-bitrate code",
    source="not told by the file",
    licence="not told by the file; derived data keep their own terms",
    method="each line's rate since the line before, as Pensieve's simulator",
    counts="as in what it was cooked from, taken as IP bytes",
    recognise=recognise_cooked,
    read=read_cooked,
    takes=frozenset({"unit"}),
)
