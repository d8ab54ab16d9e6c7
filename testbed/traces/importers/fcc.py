"""FCC Measuring Broadband America, curr_webget: one fetch of a web page a row, in bytes/s."""

from __future__ import annotations

from datetime import datetime

from testbed.traces.importers.format import Format, Reading
from testbed.traces.importers.samples import Points
from testbed.traces.importers.source import BadLine, Groups, Request, Source, Table, number
from testbed.traces.trace import SECOND_NS

_HOLD_NS = 5 * SECOND_NS  # as Pensieve (Mao et al., SIGCOMM 2017) strings them together
_KEYS = ("unit_id", "target")


def recognise(head: list[str]) -> bool:
    """The header of curr_webget: other FCC tables have a bytes_sec of another meaning."""
    columns = set(head[0].split(",")) if head else set()
    return {*_KEYS, "dtime", "bytes_sec", "objects", "request_total_time"} <= columns


def read(source: Source, request: Request) -> Reading:
    """The fetches of one unit from one target, 5 s each: no time series, hours lie between them.

    A fetch with no success measured nothing and is a gap.
    """
    groups = Groups(source, _KEYS, request.select)
    points = Points(_HOLD_NS, reach=1)
    table = Table(source, (*_KEYS, "dtime", "bytes_sec", "successes"))
    fetches = 0
    for line_number, (unit, target, stamp, rate, successes) in table.rows():
        if not groups.wants((unit, target)):
            continue
        with source.judge(line_number):
            _check_time(stamp)
            failed = number(successes, "a count of successes") == 0
            rates = None if failed else (round(number(rate, "bytes/s") * 8),)
            points.add(line_number, fetches * _HOLD_NS, rates)
        fetches += 1
    return Reading(points.segments(), groups.chosen)


def _check_time(stamp: str) -> None:
    try:
        datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S")
    except ValueError:
        raise BadLine("a time such as 2016-09-01 00:33:51", stamp) from None


FORMAT = Format(
    name="fcc",
    about="FCC Measuring Broadband America, curr_webget",
    source="https://www.fcc.gov/oet/mba/raw-data-releases",
    licence="US government data, offered as it is",
    method="fetches strung together, 5 s each, as Pensieve does; no time series",
    counts="payload of HTTP, taken as IP bytes",
    recognise=recognise,
    read=read,
    direction="down",
    selects=_KEYS,
    takes=frozenset({"gaps"}),
)
