"""How much longer each policy took in one campaign than in another, with intervals."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.style import GREY, new_figure, split_colours
from analysis.policies import policy_label, split_of


def draw_comparison(frame: pd.DataFrame) -> Figure:
    """A dot a policy and condition, right of zero where B took longer."""
    rows = frame.to_dict("records")
    figure = new_figure(0.34 * len(rows) + 1.2)
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=1)
    colours = split_colours({split_of(str(row["policy"])) or "dynamic" for row in rows})
    for place, row in enumerate(reversed(rows)):
        colour = colours[split_of(str(row["policy"])) or "dynamic"]
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
    axes.set_xlabel("B took longer than A by, %")
    return figure
