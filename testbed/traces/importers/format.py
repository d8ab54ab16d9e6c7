"""What one family of trace files is, and what its reader gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from testbed.traces.importers.samples import Segment
from testbed.traces.importers.source import Request, Source


@dataclass(frozen=True)
class Reading:
    """What a reader found: segments in order, each with one rate a direction.

    ``directions`` is empty where the file does not say; ``selected`` tells which of its runs,
    ``source`` what the file says of its own origin.
    """

    segments: list[Segment]
    selected: Mapping[str, str] = field(default_factory=dict)
    directions: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Format:
    """A family of trace files.

    ``direction`` is what every file of the family measures, None where a caller must say it;
    ``suffixes`` maps a file's ending to it. ``method`` says how samples become intervals,
    ``counts`` what the rates count. ``takes`` names the fields of Request that mean something
    here, ``selects`` the keys of ``--select``. ``version`` rises when the same file gives another
    trace.
    """

    name: str
    about: str
    source: str
    licence: str
    method: str
    counts: str
    recognise: Callable[[list[str]], bool]
    read: Callable[[Source, Request], Reading]
    direction: str | None = None
    suffixes: Mapping[str, str] = field(default_factory=dict)
    selects: tuple[str, ...] = ()
    takes: frozenset[str] = frozenset()
    version: int = 1
