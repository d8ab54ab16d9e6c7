"""A table of the report: one frame, shown in HTML, kept as CSV and in the summary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.bootstrap import needed_for_percentile
from analysis.formats import (
    Cell,
    known,
    milliseconds,
    number,
    percent,
    percent_ranged,
    ranged,
)
from analysis.policies import policy_label

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], Cell | str]]


@dataclass(frozen=True)
class Table:
    """A frame with the columns that a person sees and what they mean."""

    name: str
    title: str
    note: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]
    style: str = ""  # of the page: ``words`` and ``facts`` hold more text than numbers

    @property
    def header(self) -> list[str]:
        """Column titles."""
        return [title for title, _ in self.columns]

    @property
    def cells(self) -> list[list[Cell]]:
        """Rows as shown."""
        shown = []
        for row in self.frame.to_dict("records"):
            made = [show({str(k): v for k, v in row.items()}) for _, show in self.columns]
            shown.append([Cell(cell) if isinstance(cell, str) else cell for cell in made])
        return shown


def num(key: str) -> Callable[[Row], str]:
    """A number with three significant digits."""
    return lambda row: number(row[key])


def ms(name: str) -> Callable[[Row], str]:
    """Milliseconds of the column ``<name>_ms``."""
    return lambda row: milliseconds(row[f"{name}_ms"])


def share(key: str) -> Callable[[Row], str]:
    """A share as a percentage."""
    return lambda row: percent(row[key])


def count(key: str) -> Callable[[Row], str]:
    """A whole number."""
    return lambda row: f"{row[key]:.0f}" if known(row[key]) else number(None)


def text(key: str) -> Callable[[Row], str]:
    """The value as it is."""
    return lambda row: str(row[key])


def number_range(key: str) -> Callable[[Row], Cell]:
    """A number with the interval in ``<key>_low`` and ``<key>_high``."""
    return lambda row: ranged(row[key], row[f"{key}_low"], row[f"{key}_high"])


def share_range(key: str) -> Callable[[Row], Cell]:
    """A percentage with its interval."""
    return lambda row: percent_ranged(row[key], row[f"{key}_low"], row[f"{key}_high"])


def percentile(share: int) -> Column:
    """A percentile with its interval, or how many queries it would need."""
    needed = needed_for_percentile(share / 100)

    def show(row: Row) -> Cell:
        if known(row[f"p{share}_ms"]):
            return number_range(f"p{share}_ms")(row)
        return Cell("", f"n < {needed}")

    return f"p{share} ms", show


POLICY: Column = ("policy", lambda row: policy_label(row["policy"]))
RATIOS: tuple[Column, ...] = (
    ("n", count("n")),
    ("median ratio", num("median_ratio")),
    ("median error", share("median_abs_error")),
    ("p95 error", share("p95_abs_error")),
)
