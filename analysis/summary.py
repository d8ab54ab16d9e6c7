"""The report for programs: every number of every table, by name."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

import pandas as pd

from analysis.dataset import Dataset
from analysis.figures.style import Drawing
from analysis.tables import Table
from analysis.trust import Doubt
from testbed.records import SCHEMA_VERSION

_DIGITS = 6


@dataclass(frozen=True)
class Section:
    """One condition as shown: its answer, tables and figures."""

    title: str
    key: str
    link: str
    load: str
    answer: str
    tables: list[Table]
    drawings: list[Drawing]
    plot: str  # the distribution once more, as SVG to be questioned

    @property
    def heading(self) -> str:
        """The title as a heading has it."""
        return self.title[:1].upper() + self.title[1:]


def stacked(name: str, sections: list[Section]) -> pd.DataFrame:
    """One table of every condition together, the condition in its first columns."""
    parts = []
    for section in sections:
        for table in section.tables:
            if table.name == name:
                frame = table.frame.copy()
                frame.insert(0, "link", section.link)
                frame.insert(1, "load", section.load)
                parts.append(frame)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def summarise(data: Dataset, sections: list[Section], tables: list[Table]) -> dict[str, Any]:
    """Every number of every table, named; answer, verdict and doubts are the caller's."""
    names = dict.fromkeys(table.name for section in sections for table in section.tables)
    frames = {name: stacked(name, sections) for name in names}
    frames |= {table.name: table.frame for table in tables}
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": data.name,
        "campaign": data.root.name,
        "answer": "",
        "verdict": {"trusted": True, "reasons": []},
        "doubts": [],
        "answers": {section.key: section.answer for section in sections},
        "tables": {name: plain_rows(frame) for name, frame in frames.items()},
    }


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows as JSON has them."""
    rows = frame.to_dict("records")
    return [{str(key): plain_value(value) for key, value in row.items()} for row in rows]


def told_doubts(doubts: list[Doubt]) -> dict[str, Any]:
    """The verdict, whose reasons are the grave doubts, and every doubt."""
    reasons = [doubt.text for doubt in doubts if doubt.grave]
    return {
        "verdict": {"trusted": not reasons, "reasons": reasons},
        "doubts": [doubt.text for doubt in doubts],
    }


def plain_value(value: Any) -> Any:
    """A value as JSON has it: six significant digits, null for what is not known."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if isfinite(value) else None
    return value.item() if hasattr(value, "item") else value
