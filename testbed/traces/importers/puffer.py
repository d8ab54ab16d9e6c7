"""Puffer's video_sent: the server's TCP delivery rate at each chunk, in bytes/s, times in ns."""

from __future__ import annotations

from testbed.traces.importers.format import Format, Reading
from testbed.traces.importers.samples import Points
from testbed.traces.importers.source import BadLine, Groups, Request, Source, Table, number

_KEYS = ("session_id", "index")
_COLUMNS = (*_KEYS, "time (ns GMT)", "delivery_rate")


def recognise(head: list[str]) -> bool:
    """The header has the time in ns and the delivery rate."""
    columns = set(head[0].split(",")) if head else set()
    return set(_COLUMNS) <= columns


def read(source: Source, request: Request) -> Reading:
    """One stream of one session."""
    groups = Groups(source, _KEYS, request.select)
    points = Points()
    for line_number, (*group, stamp, rate) in Table(source, _COLUMNS).rows():
        if not groups.wants(group):
            continue
        with source.judge(line_number):
            if not (stamp.isascii() and stamp.isdigit()) or len(stamp) > 19:
                raise BadLine("a time in whole ns", stamp)
            points.add(line_number, int(stamp), (round(number(rate, "bytes/s") * 8),))
    return Reading(points.segments(), groups.chosen)


FORMAT = Format(
    name="puffer",
    about="Puffer, video_sent (Yan et al., NSDI 2020)",
    source="https://puffer.stanford.edu/results/",
    licence="not determined; the authors ask for citation of NSDI 2020",
    method="each chunk's rate holds until the next, two median steps at most",
    counts="TCP's delivery_rate at the sender, payload taken as IP bytes",
    recognise=recognise,
    read=read,
    direction="down",
    selects=_KEYS,
    takes=frozenset({"gaps"}),
)
