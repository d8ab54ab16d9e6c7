"""mahimahi's packet-delivery opportunities: one time in ms a line, one packet of 1500 B each."""

from __future__ import annotations

from testbed.errors import UserError
from testbed.framing import MTU_BYTES
from testbed.traces.importers.format import Format, Reading
from testbed.traces.importers.samples import Segment
from testbed.traces.importers.source import BadLine, Request, Source
from testbed.traces.trace import MOST_STEPS

_MS_NS = 10**6
_BIN_MS = 20
_MAX_MS = _BIN_MS * MOST_STEPS  # a day: more is a unix time


def _is_stamp(line: str) -> bool:
    return line.isascii() and line.isdigit() and len(line) < 19


def recognise(head: list[str]) -> bool:
    """Whole numbers that never fall, at least two: nothing else looks like this."""
    if len(head) < 2 or not all(map(_is_stamp, head)):
        return False
    stamps = [int(line) for line in head]
    return stamps == sorted(stamps) and stamps[-1] < _MAX_MS


def read(source: Source, request: Request) -> Reading:
    """Opportunities in bins of 20 ms, bytes conserved; the loop period is the last timestamp."""
    stamps_ms: list[int] = []
    number, line = 1, "an empty file"
    for number, line in source.lines():
        before_ms = stamps_ms[-1] if stamps_ms else 0
        with source.judge(number):
            if not _is_stamp(line) or not before_ms <= int(line) <= _MAX_MS:
                raise BadLine(f"one whole number of ms, {before_ms} to {_MAX_MS}", line)
            stamps_ms.append(int(line))
    if not stamps_ms or stamps_ms[-1] == 0:
        raise UserError(f"{source.path}:{number}: expected a last timestamp after 0 ms, got {line}")
    period_ms = stamps_ms[-1]
    counts = [0] * -(-period_ms // _BIN_MS)
    for stamp_ms in stamps_ms:
        # A bin holds the stamps after its start up to its end: the last stamp is in the period.
        counts[max(0, stamp_ms - 1) // _BIN_MS] += 1
    segments = []
    for i, count in enumerate(counts):
        start_ms, end_ms = i * _BIN_MS, min((i + 1) * _BIN_MS, period_ms)
        rate_bps = round(count * MTU_BYTES * 8 * 1000 / (end_ms - start_ms))
        segments.append(Segment(start_ms * _MS_NS, end_ms * _MS_NS, (rate_bps,), 0))
    return Reading(segments)


FORMAT = Format(
    name="mahimahi",
    about="packet-delivery opportunities of mahimahi's link shells",
    source="https://github.com/ravinet/mahimahi/tree/master/traces",
    licence="GPL-3.0 for the traces that mahimahi ships; else its author's",
    method="opportunities of 1500 B counted in bins of 20 ms; ends at the last timestamp",
    counts="IP bytes",
    recognise=recognise,
    read=read,
    suffixes={".up": "up", ".down": "down"},
)
