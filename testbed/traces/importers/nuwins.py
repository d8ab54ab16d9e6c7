"""NUWiNS's 5G and LTE uplinks: runs under ``Run N``, comma-separated samples in Mbit/s."""

from __future__ import annotations

import re
from collections.abc import Iterator

from testbed.traces.importers.format import Format, Reading
from testbed.traces.importers.samples import Points
from testbed.traces.importers.source import BadLine, Groups, Request, Source, number
from testbed.traces.trace import SECOND_NS

_RUN = re.compile(r"Run\s+(\d+)")
_STEP_NS = SECOND_NS // 10  # as in the files that have rows of times; the others do not state it
_KEYS = ("run", "pair")

_Row = tuple[int, list[str]]  # line number and cells
_Series = tuple[str, str, _Row | None, _Row]  # run, pair, times in s, samples


def recognise(head: list[str]) -> bool:
    """Rulers aside, the file begins with ``Run N``."""
    lines = [line for line in head if set(line) != {"#"}]
    return bool(lines) and _RUN.fullmatch(lines[0]) is not None


def read(source: Source, request: Request) -> Reading:
    """One run; ``pair`` chooses where a run has two series, each under a row of times."""
    groups = Groups(source, _KEYS, request.select)
    segments = []
    for run, pair, times, samples in _series(source):
        if groups.wants((run, pair)):
            points = _points(source, times, samples)
            segments = points.segments()
    return Reading(segments, groups.chosen)


def _series(source: Source) -> Iterator[_Series]:
    """Each series of each run: one row of samples alone, or pairs of times and samples."""
    for run, rows in _runs(source):
        if len(rows) == 1:
            yield run, "1", None, rows[0]
            continue
        with source.judge(rows[-1][0] if rows else 0):
            if not rows or len(rows) % 2:
                raise BadLine("a row of samples, or pairs of times and samples", f"Run {run}")
            for i in range(0, len(rows), 2):
                yield run, str(i // 2 + 1), rows[i], rows[i + 1]


def _runs(source: Source) -> Iterator[tuple[str, list[_Row]]]:
    run: str | None = None
    rows: list[_Row] = []
    for line_number, line in source.lines():
        text = line.strip()
        found = _RUN.fullmatch(text)
        if found:
            if run is not None:
                yield run, rows
            run, rows = found.group(1), []
        elif text and set(text) != {"#"}:
            with source.judge(line_number):
                if run is None:
                    raise BadLine('a line "Run N" before the first samples', text[:80])
                rows.append((line_number, text.split(",")))
    if run is not None:
        yield run, rows


def _points(source: Source, times: _Row | None, samples: _Row) -> Points:
    line_number, cells = samples
    points = Points(_STEP_NS, reach=1 if times is None else 2)
    if times is not None and len(times[1]) != len(cells):
        with source.judge(line_number):
            raise BadLine(f"{len(times[1])} samples, as many as times", len(cells))
        return points
    for i, cell in enumerate(cells):
        with source.judge(line_number):
            # Without times a malformed sample still takes its tenth of a second.
            t_ns = i * _STEP_NS if times is None else round(number(times[1][i]) * SECOND_NS)
            points.add(line_number, t_ns, (round(number(cell, "Mbit/s") * 10**6),))
    return points


FORMAT = Format(
    name="nuwins",
    about="uplink of 5G mmWave and LTE in Boston (Ghoshal et al., 5G-MeMU 2022)",
    source="https://github.com/NUWiNS/sigcomm-5gmemu-5g-mmWave-uplink-data",
    licence="none stated; the authors ask for citation",
    method="each sample for 0.1 s; that step is believed where the file has no times",
    counts="payload of the uplink, taken as IP bytes",
    recognise=recognise,
    read=read,
    direction="up",
    selects=_KEYS,
    takes=frozenset({"gaps"}),
)
