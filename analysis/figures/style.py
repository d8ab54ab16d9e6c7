"""What all figures share: colours, sizes, scales."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from analysis.dataset import Dataset
from analysis.figures.press import RC
from analysis.policies import DYNAMIC, ordered_splits, split_of
from testbed.model.table import LOCAL, OFFLOAD

# Okabe and Ito's palette, apart from each other under every common colour blindness.
_FIXED = {DYNAMIC: "#000000", LOCAL: "#D55E00", OFFLOAD: "#0072B2"}
# Of the other policies that choose, in order of their names; drawn with dashes where lines meet.
_CHOOSING = ("#882255", "#8C510A", "#4B0092", "#5A7302", "#B2182B", "#35618F", "#AA4499", "#01665E")
_SPLITS = ("#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#B8A800")
GREY = "#6E6E6E"
CONTRAST = 4.5  # of words on white

WIDTH_IN = 9.0


@dataclass(frozen=True)
class Drawing:
    """A figure with its file name and the sentence that says what to see."""

    name: str
    title: str
    caption: str
    figure: Figure
    data: pd.DataFrame | None = None  # what it shows, kept as CSV beside it
    in_page: bool = True  # False where the page shows an interactive one instead


def style() -> Any:
    """Context in which figures are drawn and saved."""
    return mpl.rc_context(RC)


def new_figure(height_in: float) -> Figure:
    """An empty figure at the report's width."""
    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


def split_colours(splits: Iterable[str]) -> dict[str, str]:
    """A colour for each split; more than five splits in the middle share a graded palette."""
    middle = [s for s in ordered_splits(splits) if s not in _FIXED]
    if len(middle) <= len(_SPLITS):
        shades = list(_SPLITS[: len(middle)])
    else:
        graded = mpl.colormaps["viridis"].resampled(len(middle))
        shades = [mpl.colors.to_hex(graded(n)) for n in range(len(middle))]
    return {**_FIXED, **dict(zip(middle, shades, strict=True))}


def palette(data: Dataset) -> dict[str, str]:
    """Colours of every split and policy of a campaign, the same in each of its figures.

    A static policy has its split's colour, ``dynamic`` is black.
    """
    policies = {run.policy for run in data.runs}
    static = {policy: split for policy in policies if (split := split_of(policy)) is not None}
    candidates = (data.profile or {}).get("candidates", {})
    splits = {*data.queries["split"].dropna().unique(), *candidates, *static.values()}
    colours = split_colours(splits)
    choosing = sorted(policies - set(static) - {DYNAMIC})
    return {
        **colours,
        **{policy: colours[split] for policy, split in static.items()},
        **{policy: _CHOOSING[n % len(_CHOOSING)] for n, policy in enumerate(choosing)},
    }


def legible(colour: str) -> str:
    """A colour dark enough for words on white: as it is, or as much darker as WCAG's 4.5 : 1 asks.

    Contrast and luminance: Web Content Accessibility Guidelines 2.2, success criterion 1.4.3.
    """
    red, green, blue = mpl.colors.to_rgb(colour)
    while 1.05 / (luminance(red, green, blue) + 0.05) < CONTRAST:
        red, green, blue = (0.95 * part for part in (red, green, blue))
    return mpl.colors.to_hex((red, green, blue))


def luminance(red: float, green: float, blue: float) -> float:
    """Relative luminance, 0 to 1, of an sRGB colour's parts."""

    def linear(part: float) -> float:
        return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)

    return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
