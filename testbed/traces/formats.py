"""The trace files that an experiment may name."""

from __future__ import annotations

from pathlib import Path

from testbed.errors import UserError
from testbed.traces.importers import import_trace
from testbed.traces.importers.source import Request
from testbed.traces.trace import BandwidthTrace

_BY_SUFFIX = {".csv": "testbed", ".up": "mahimahi", ".down": "mahimahi"}


def load_trace(path: Path) -> BandwidthTrace:
    """Read ``*.csv`` (the testbed's own) or mahimahi's ``*.up`` and ``*.down``.

    Every other format needs a word on direction, gaps or runs, and is converted first.
    Raises UserError naming file, line, and what was expected there.
    """
    name = _BY_SUFFIX.get(path.suffix)
    if name is None:
        raise UserError(
            f"{path}: expected a trace named *.csv (t_s,up_bps,down_bps), or *.up or *.down "
            f"(mahimahi), got {path.suffix or 'no extension'}; see testbed trace convert"
        )
    return import_trace(path, Request(format=name)).trace
