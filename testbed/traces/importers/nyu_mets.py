"""NYU-METS: ``value,unit`` a line, a line a second, no header and no times."""

from __future__ import annotations

from testbed.traces.importers.format import Format, Reading
from testbed.traces.importers.samples import Points
from testbed.traces.importers.source import BadLine, Request, Source, is_number, number
from testbed.traces.trace import SECOND_NS

_UNITS_BPS = {"bits/sec": 1, "Kbits/sec": 10**3, "Mbits/sec": 10**6, "Gbits/sec": 10**9}


def recognise(head: list[str]) -> bool:
    """A number and one of iperf's units in every line."""
    rows = [line.split(",") for line in head]
    return bool(rows) and all(
        len(row) == 2 and is_number(row[0]) and row[1] in _UNITS_BPS for row in rows
    )


def read(source: Source, request: Request) -> Reading:
    """The unit is each line's own. Some files end in a line cut off, which is malformed."""
    points = Points(SECOND_NS, reach=1)
    for line_number, line in source.lines():
        with source.judge(line_number):
            value, _, unit = line.strip().partition(",")
            if unit not in _UNITS_BPS:
                raise BadLine(f"a value and one of {', '.join(_UNITS_BPS)}", line)
            rate_bps = round(number(value) * _UNITS_BPS[unit])
            points.add(line_number, (line_number - 1) * SECOND_NS, (rate_bps,))
    return Reading(points.segments())


FORMAT = Format(
    name="nyu-mets",
    about="LTE in New York's trains and buses (Mei et al., 2019)",
    source="https://github.com/NYU-METS/Main",
    licence="ODbL 1.0 (database), DbCL 1.0 (contents)",
    method="each line's rate for its second",
    counts="payload of iperf TCP, taken as IP bytes",
    recognise=recognise,
    read=read,
    takes=frozenset({"gaps"}),
)
