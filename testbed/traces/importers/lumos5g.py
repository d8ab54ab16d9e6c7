"""Lumos5G 1.0: one CSV of many walks and drives, a row a second, rates in Mbit/s."""

from __future__ import annotations

from testbed.traces.importers.format import Format, Reading
from testbed.traces.importers.samples import Points
from testbed.traces.importers.source import BadLine, Groups, Request, Source, Table, number
from testbed.traces.trace import SECOND_NS

_KEYS = ("run_num", "mobility_mode", "trajectory_direction")
_COLUMNS = (*_KEYS, "seq_num", "Throughput")


def recognise(head: list[str]) -> bool:
    """The header has the run's columns and the 5G signal's."""
    columns = set(head[0].split(",")) if head else set()
    return {*_COLUMNS, "nr_ssSinr"} <= columns


def read(source: Source, request: Request) -> Reading:
    """One run: ``seq_num`` counts its seconds, in whatever order the file has them."""
    groups = Groups(source, _KEYS, request.select)
    seconds: dict[int, tuple[int, int | None]] = {}
    for line_number, cells in Table(source, _COLUMNS).rows():
        *group, count, rate = cells
        if not groups.wants(group):
            continue
        with source.judge(line_number):
            second = number(count, "a whole number of seconds")
            if second != int(second) or int(second) in seconds:
                raise BadLine("a whole number of seconds, each once a run", count)
            missing = rate.lower() in ("", "na", "nan")
            rate_bps = None if missing else round(number(rate, "Mbit/s") * 10**6)
            seconds[int(second)] = (line_number, rate_bps)
    points = Points(SECOND_NS, reach=1)
    for count_s, (line_number, rate_bps) in sorted(seconds.items()):
        rates = None if rate_bps is None else (rate_bps,)
        points.add(line_number, count_s * SECOND_NS, rates)
    return Reading(points.segments(), groups.chosen)


FORMAT = Format(
    name="lumos5g",
    about="Lumos5G 1.0, mmWave 5G in Minneapolis (Narayanan et al., IMC 2020)",
    source="https://lumos5g.umn.edu/",
    licence="CC BY 4.0",
    method="each row's rate for its second",
    counts="payload of iperf3 TCP, taken as IP bytes",
    recognise=recognise,
    read=read,
    direction="down",
    selects=_KEYS,
    takes=frozenset({"gaps"}),
)
