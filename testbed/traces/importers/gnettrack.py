"""UCC's Irish 5G and 4G sets: G-NetTrack logs, about a row a second, rates in kbit/s."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import partial

from testbed.traces.importers.format import Format, Reading
from testbed.traces.importers.samples import Points
from testbed.traces.importers.source import BadLine, Request, Source, Table, number
from testbed.traces.trace import SECOND_NS

# Data, idle, voice, both: without data a row says 0 because nothing was asked for.
_CARRIES = {"D": True, "VD": True, "I": False, "V": False}


def recognise(head: list[str], *, last: str) -> bool:
    """The header of the app, with the columns that only the one set has."""
    columns = head[0].split(",") if head else []
    return {"Timestamp", "DL_bitrate", "UL_bitrate", "State", last} <= set(columns)


def read(source: Source, request: Request) -> Reading:
    """The downlink; rows of one second are averaged, since the clock shows whole seconds.

    UL_bitrate is what acknowledgements and the app sent under a download, never a capacity, so it
    is not read. Rows without data (idle, voice) say 0 and are gaps, no capacity of 0.
    """
    points = Points(SECOND_NS, merge=True)
    for line_number, cells in Table(source, ("Timestamp", "DL_bitrate", "State")).rows():
        stamp, rate, state = cells
        with source.judge(line_number):
            if state not in _CARRIES:
                raise BadLine(f"State {', '.join(_CARRIES)}", state)
            missing = rate == "-" or not _CARRIES[state]
            rates = None if missing else (round(number(rate, "kbit/s") * 1000),)
            points.add(line_number, _time_ns(stamp), rates)
    return Reading(points.segments())


def _time_ns(stamp: str) -> int:
    try:
        # Differences alone count; a zone with summer time would fold an hour.
        moment = datetime.strptime(stamp, "%Y.%m.%d_%H.%M.%S").replace(tzinfo=timezone.utc)
    except ValueError:
        raise BadLine("a time such as 2019.12.16_13.40.04", stamp) from None
    return round(moment.timestamp()) * SECOND_NS


def _format(name: str, about: str, source: str, licence: str, last: str) -> Format:
    return Format(
        name=name,
        about=about,
        source=source,
        licence=licence,
        method="each second's mean holds until the next row, 2 s at most; idle rows are gaps",
        counts="what the phone received, taken as IP bytes; under a streaming app its demand, "
        "a capacity only under a download",
        recognise=partial(recognise, last=last),
        read=read,
        direction="down",
        takes=frozenset({"gaps"}),
    )


UCC_5G = _format(
    "ucc-5g",
    "5G in Ireland (Raca et al., MMSys 2020)",
    "https://github.com/uccmisl/5Gdataset",
    "GPL-3.0 (the repository's LICENSE)",
    "CELLHEX",
)
UCC_4G = _format(
    "ucc-4g",
    "4G in Ireland (Raca et al., MMSys 2018)",
    "https://www.ucc.ie/en/misl/research/datasets/ivid_4g_lte_dataset/",
    "none known; the authors ask for citation of MMSys 2018",
    "ServingCell_Distance",
)
