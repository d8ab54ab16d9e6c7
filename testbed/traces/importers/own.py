"""The testbed's own CSV, to be resampled, floored or shown with the others."""

from __future__ import annotations

from testbed.traces.canonical import read_csv
from testbed.traces.importers.format import Format, Reading
from testbed.traces.importers.samples import Segment
from testbed.traces.importers.source import Request, Source


def recognise(head: list[str]) -> bool:
    """The first line that is no comment begins with the column of times."""
    return next((line for line in head if not line.startswith("#")), "").startswith("t_s,")


def read(source: Source, request: Request) -> Reading:
    """Read strictly: the testbed wrote it, so a malformed line is never left out."""
    trace = read_csv(source.path, [line for _, line in source.lines()])
    sides = {"up": trace.up_bps, "down": trace.down_bps}
    directions = tuple(name for name, rates in sides.items() if rates is not None)
    rates = zip(*(trace.direction(name) for name in directions), strict=True)
    ends = (*trace.t_ns[1:], trace.duration_ns)
    segments = [
        Segment(start, end, rate, 0)
        for start, end, rate in zip(trace.t_ns, ends, rates, strict=True)
    ]
    return Reading(segments, directions=directions, source=trace.source)


FORMAT = Format(
    name="testbed",
    about="the testbed's own CSV: t_s with up_bps, down_bps or both",
    source="told in the file's first line",
    licence="as of what it was made from",
    method="as written",
    counts="IP bytes",
    recognise=recognise,
    read=read,
)
