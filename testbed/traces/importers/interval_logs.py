"""HSDPA Norway and Ghent 4G: six columns, bytes received in the interval that each line ends."""

from __future__ import annotations

from functools import partial

from testbed.traces.importers.format import Format, Reading
from testbed.traces.importers.samples import Segment
from testbed.traces.importers.source import BadLine, Request, Source, is_number, number
from testbed.traces.trace import SECOND_NS

_MS_NS = 10**6
_EPOCH_S = 10**9  # 2001: what begins with less is no unix time
_EPOCH_MS = 10**11  # unix times below are in s (Norway), above in ms (Ghent)


def recognise(head: list[str], *, in_ms: bool) -> bool:
    """Six numbers a line; the first is a unix time in s (Norway) or in ms (Ghent)."""
    rows = [line.split() for line in head]
    return bool(rows) and all(
        len(row) == 6
        and all(map(is_number, row))
        and float(row[0]) >= _EPOCH_S
        and (float(row[0]) >= _EPOCH_MS) == in_ms
        for row in rows
    )


def read(source: Source, request: Request) -> Reading:
    """Times are of the second column, a monotonic clock; bytes are conserved.

    The lengths written (sixth column) and the clock differ by some ms: an interval then begins
    where the one before ended. A hole of more than half an interval is a gap.
    """
    segments: list[Segment] = []
    for line_number, line in source.lines():
        with source.judge(line_number):
            before_ns = segments[-1].end_ns if segments else None
            segments.append(_segment(line_number, line, before_ns))
    return Reading(segments)


def _segment(line_number: int, line: str, before_ns: int | None) -> Segment:
    cells = line.split()
    if len(cells) != 6:
        raise BadLine("six values: unix time, ms, latitude, longitude, bytes, ms", line)
    end_ns = round(number(cells[1], "a time in ms") * _MS_NS)
    size_bytes = number(cells[4], "a number of bytes")
    length_ns = round(number(cells[5], "a length in ms") * _MS_NS)
    if length_ns == 0:
        raise BadLine("a length of more than 0 ms", cells[5])
    start_ns = end_ns - length_ns
    if before_ns is not None:
        if end_ns <= before_ns or before_ns - start_ns > length_ns / 2:
            raise BadLine("an interval after that of the line before", f"{cells[1]} ms")
        if start_ns - before_ns <= length_ns / 2:
            start_ns = before_ns
    rate_bps = round(size_bytes * 8 * SECOND_NS / (end_ns - start_ns))
    return Segment(start_ns, end_ns, (rate_bps,), line_number)


_METHOD = "bytes of each line over the interval that it ends, by the monotonic clock"

HSDPA_NORWAY = Format(
    name="hsdpa-norway",
    about="Telenor HSDPA in Norway (Riiser et al., MMSys 2013)",
    source="https://datasets.simula.no/hsdpa-tcp-logs/",
    licence="none stated; the authors ask for citation of MMSys 2013",
    method=_METHOD,
    counts="payload of an HTTP download, taken as IP bytes",
    recognise=partial(recognise, in_ms=False),
    read=read,
    direction="down",
    takes=frozenset({"gaps"}),
)
GHENT_4G = Format(
    name="ghent-4g",
    about="4G in and around Ghent (van der Hooft et al., 2016)",
    source="https://users.ugent.be/~jvdrhoof/dataset-4g/",
    licence="none stated",
    method=_METHOD,
    counts="payload of an HTTP download (the server's link: 100 Mbit/s), taken as IP bytes",
    recognise=partial(recognise, in_ms=True),
    read=read,
    direction="down",
    takes=frozenset({"gaps"}),
)
