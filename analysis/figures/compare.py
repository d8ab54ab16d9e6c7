"""How much longer each policy took in one campaign than in another, with intervals."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.style import GREY, new_figure
from analysis.policies import policy_label


def draw_comparison(frame: pd.DataFrame, colours: Mapping[str, str]) -> Figure:
    """A dot a policy and condition, right of zero where B took longer; grey without a colour."""
    rows = frame.to_dict("records")
    figure = new_figure(0.34 * len(rows) + 1.2)
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=1)
    for place, row in enumerate(reversed(rows)):
        colour = colours.get(str(row["policy"]), GREY)
        ends = [100 * row["difference_low"], 100 * row["difference_high"]]
        axes.plot(ends, [place, place], color=colour, linewidth=2)
        axes.plot(100 * row["difference"], place, "o", color=colour)
    several = frame["b"].nunique() > 1
    labels = [
        f"{row['link']} {row['load']} {policy_label(str(row['policy']))}"
        + (f" ({row['b']})" if several else "")
        for row in reversed(rows)
    ]
    axes.set_yticks(range(len(rows)), labels)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"{'took' if several else 'B took'} longer than A by, %")
    return figure
