"""Importers: bandwidth traces of other people's sets, made canonical, with a sidecar."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testbed import __version__
from testbed.errors import UserError
from testbed.records import SCHEMA_VERSION
from testbed.traces.canonical import read_sidecar
from testbed.traces.importers import (
    columns,
    fcc,
    gnettrack,
    interval_logs,
    iperf3,
    lumos5g,
    mahimahi,
    nuwins,
    nyu_mets,
    own,
    puffer,
    two_columns,
)
from testbed.traces.importers.format import Format, Reading
from testbed.traces.importers.samples import GapCount, join
from testbed.traces.importers.source import Request, Source
from testbed.traces.trace import BandwidthTrace

FORMATS: dict[str, Format] = {
    made.name: made
    for made in (
        own.FORMAT,
        mahimahi.FORMAT,
        interval_logs.HSDPA_NORWAY,
        interval_logs.GHENT_4G,
        gnettrack.UCC_5G,
        gnettrack.UCC_4G,
        lumos5g.FORMAT,
        nuwins.FORMAT,
        nyu_mets.FORMAT,
        fcc.FORMAT,
        puffer.FORMAT,
        two_columns.OBOE,
        two_columns.COOKED,
        iperf3.FORMAT,
        columns.FORMAT,
    )
}
_OPTIONS = {
    "gaps": "--gaps",
    "unit": "--unit",
    "columns": "--up-column/--down-column",
    "time": "--time",
    "time_unit": "--time-unit",
}


@dataclass(frozen=True)
class Imported:
    """A canonical trace, and where it is from and what was done to it, ready for JSON."""

    trace: BandwidthTrace
    sidecar: dict[str, Any]


def import_trace(path: Path, request: Request) -> Imported:
    """Read a trace of any known format.

    Raises UserError for a malformed line (unless ``skip_bad``), a format or direction that is
    neither said nor sure, and an option that the format has no use for.
    """
    source = Source(path, request.skip_bad)
    found = _format(source, request)
    _refuse_useless(path, found, request)
    direction = _direction(path, found, request)
    reading = found.read(source, request)
    if reading.directions and direction:
        raise UserError(f"{path}: --direction means nothing here: each column tells its own")
    directions = reading.directions or ((direction,) if direction else ())
    if not directions:
        raise UserError(
            f"{path}: the format {found.name} does not tell which direction was measured; "
            "say --direction up or --direction down"
        )
    selected = "".join(f" {key}={value}" for key, value in reading.selected.items())
    name = reading.source or path.name + selected
    trace, gaps = join(path, reading.segments, directions, request.gaps or "hold", name)
    trace, resampled = _resample(trace, request)
    told = _sidecar(source, found, reading, gaps, trace)
    return Imported(trace, {**told, **resampled})


def recognise(source: Source) -> Format:
    """The one format that a file's content shows; UserError where none or several do."""
    head = source.head()
    candidates = [found for found in FORMATS.values() if found.recognise(head)]
    if len(candidates) == 1:
        return candidates[0]
    told = " or ".join(found.name for found in candidates)
    raise UserError(
        f"{source.path}: "
        + (f"may be {told}" if candidates else "not recognised by its content")
        + f"; say --format {'|'.join(found.name for found in candidates or FORMATS.values())}"
    )


def _format(source: Source, request: Request) -> Format:
    if request.format is None:
        return recognise(source)
    if request.format not in FORMATS:
        raise UserError(f"format: expected one of {', '.join(FORMATS)}, got {request.format!r}")
    return FORMATS[request.format]


def _refuse_useless(path: Path, found: Format, request: Request) -> None:
    for name, option in _OPTIONS.items():
        if getattr(request, name) and name not in found.takes:
            raise UserError(f"{path}: {option} means nothing for the format {found.name}")
    for key in request.select:
        if key not in found.selects:
            known = ", ".join(found.selects) or "nothing"
            raise UserError(f"{path}: --select: {found.name} selects by {known}, got {key!r}")


def _direction(path: Path, found: Format, request: Request) -> str | None:
    """The direction of a one-way file: the format's, the suffix's, or the caller's word."""
    stated = found.direction or found.suffixes.get(path.suffix)
    if stated and request.direction not in (None, stated):
        raise UserError(
            f"{path}: the format {found.name} says {stated}, --direction says {request.direction}; "
            f"import it as {stated} and write 'direction: as-{'up' if stated == 'down' else 'down'}"
            "link' in the experiment"
        )
    return stated or request.direction


def _resample(trace: BandwidthTrace, request: Request) -> tuple[BandwidthTrace, dict[str, Any]]:
    told: dict[str, Any] = {"resampling": None, "floor": None}
    if request.step_ns is not None:
        step_ns = request.step_ns
        means = {name: trace.means(name, step_ns) for name in trace.directions}
        times = tuple(range(0, trace.duration_ns, step_ns))
        trace = replace(trace, t_ns=times, up_bps=means.get("up"), down_bps=means.get("down"))
        told["resampling"] = {"step_ns": step_ns, "method": "mean by time, bytes conserved"}
    if request.floor_bps is not None:
        floor_bps = request.floor_bps
        raised_ns = {
            name: sum(end - start for start, end, rate in trace.spans(name) if rate < floor_bps)
            for name in trace.directions
        }
        rates = {
            name: tuple(max(rate, floor_bps) for rate in trace.direction(name))
            for name in trace.directions
        }
        trace = replace(trace, up_bps=rates.get("up"), down_bps=rates.get("down"))
        told["floor"] = {"bps": floor_bps, "raised_ns": raised_ns}
    return trace, told


def _sidecar(
    source: Source, found: Format, reading: Reading, gaps: GapCount, trace: BandwidthTrace
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "format": found.name,
        "about": found.about,
        "source": found.source,
        "licence": found.licence,
        "original": {"name": source.path.name, "sha256": source.sha256()},
        "earlier": read_sidecar(source.path) if found is own.FORMAT else None,
        "importer_version": found.version,
        "testbed_version": __version__,
        "directions": list(trace.directions),
        "selected": dict(reading.selected),
        "method": found.method,
        "counts": found.counts,
        "gaps": gaps.to_json(),
        "skipped_lines": source.skipped,
        "duration_ns": trace.duration_ns,
        "mean_bps": dict(_means(trace)),
    }


def _means(trace: BandwidthTrace) -> Iterator[tuple[str, int]]:
    for name in trace.directions:
        yield name, trace.means(name, trace.duration_ns)[0]
