"""iperf3's JSON report (``iperf3 --json``): the sum of all streams in each interval."""

from __future__ import annotations

import json
from typing import Any

from testbed.errors import UserError
from testbed.traces.importers.format import Format, Reading
from testbed.traces.importers.samples import Segment
from testbed.traces.importers.source import BadLine, Request, Source
from testbed.traces.trace import SECOND_NS


def recognise(head: list[str]) -> bool:
    """A JSON object that tells iperf3's version."""
    return bool(head) and head[0].startswith("{") and any('"iperf 3' in line for line in head)


def read(source: Source, request: Request) -> Reading:
    """Intervals of a one-way test; those left out by ``--omit`` stay out.

    The sender of UDP reports what it sent, not what arrived: its report is refused.
    """
    lines = [line for _, line in source.lines()]
    # One "streams" an interval, in order: its line is what an editor can be sent to.
    starts = [n for n, line in enumerate(lines, start=1) if '"streams"' in line]
    try:
        report = json.loads("\n".join(lines))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{source.path}:{error.lineno}: expected JSON, got an error: {error.msg}"
        ) from error
    except (ValueError, RecursionError) as error:  # a number or a nesting without end
        raise UserError(f"{source.path}: expected JSON as iperf3 writes it: {error}") from error
    intervals = report.get("intervals") if isinstance(report, dict) else None
    if not isinstance(intervals, list):
        raise UserError(f"{source.path}: expected an object with intervals, as iperf3 --json gives")
    segments: list[Segment] = []
    for i, interval in enumerate(intervals):
        with source.judge(starts[i] if i < len(starts) else 1):
            found = _segment(i, interval, segments[-1].end_ns if segments else 0)
            segments += [] if found is None else [found]
    _refuse_sent_udp(source, report, intervals)
    return Reading(segments)


def _segment(i: int, interval: Any, before_ns: int) -> Segment | None:
    if isinstance(interval, dict) and "sum_bidir_reverse" in interval:
        raise BadLine("a one-way test", f"intervals[{i}].sum_bidir_reverse")
    total = interval.get("sum") if isinstance(interval, dict) else None
    if not isinstance(total, dict):
        raise BadLine(f"intervals[{i}].sum", total)
    if total.get("omitted") is True:
        return None
    start_ns, end_ns = (round(_number(i, total, key) * SECOND_NS) for key in ("start", "end"))
    if end_ns - start_ns < _number(i, total, "seconds") * SECOND_NS / 2:
        return None  # --omit ended in it: iperf3 sets its clock back, its times fit no more
    # Seconds are written with some rounding, so that neighbours may overlap by microseconds.
    start_ns = max(start_ns, before_ns)
    if end_ns <= start_ns:
        raise BadLine(
            f"intervals[{i}].sum.end after its start and the interval before", total["end"]
        )
    rate_bps = round(_number(i, total, "bytes") * 8 * SECOND_NS / (end_ns - start_ns))
    return Segment(start_ns, end_ns, (rate_bps,), i + 1)


def _number(i: int, total: dict[str, Any], key: str) -> float:
    value = total.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10**19:
        raise BadLine(f"a number of 0 or more as intervals[{i}].sum.{key}", value)
    return value


def _refuse_sent_udp(source: Source, report: dict[str, Any], intervals: list[Any]) -> None:
    if '"UDP"' in json.dumps(report.get("start")) and '"sender": true' in json.dumps(intervals):
        raise UserError(
            f"{source.path}: expected the report of the end that received, got the UDP sender's, "
            "which tells what was sent, not what the link carried; use the server's --json or -R"
        )


FORMAT = Format(
    name="iperf3",
    about="the JSON report of iperf3",
    source="a measurement with iperf3",
    licence="its maker's",
    method="bytes of each interval over its length",
    counts="payload, taken as IP bytes",
    recognise=recognise,
    read=read,
    takes=frozenset({"gaps"}),
)
