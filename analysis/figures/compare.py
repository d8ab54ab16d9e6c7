"""How much longer each policy took in one campaign than in another, with intervals."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from analysis.answer import condition_name
from analysis.figures.style import GREY, new_figure
from analysis.policies import policy_label

_PANELS_A_ROW = 3


def draw_comparison(frame: pd.DataFrame, colours: Mapping[str, str]) -> Figure:
    """A panel a campaign, a dot a policy and condition, right of zero where it took longer than A.

    Args:
        frame: differences, each with the letter of its ``campaign``.
        colours: of each policy; without one it is grey.
    """
    row = ["link", "load", "policy"]
    rows = list(dict.fromkeys(frame[row].itertuples(index=False, name=None)))
    place = {key: n for n, key in enumerate(reversed(rows))}
    others = list(frame["campaign"].unique())
    columns = min(_PANELS_A_ROW, len(others))
    lines = -(-len(others) // columns)
    figure = new_figure(lines * (0.27 * len(rows) + 1.0))
    panels = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, other in zip(panels, others, strict=False):
        axes.axvline(0, color=GREY, linewidth=1)
        for each in frame[frame["campaign"] == other].to_dict("records"):
            y, colour = place[tuple(each[key] for key in row)], colours.get(each["policy"], GREY)
            ends = [100 * each["difference_low"], 100 * each["difference_high"]]
            axes.plot(ends, [y, y], color=colour, linewidth=2)
            axes.plot(100 * each["difference"], y, "o", color=colour)
        axes.set_xlabel(f"{other} took longer than A by, %")
        axes.tick_params(labelbottom=True)
        axes.grid(visible=False, axis="y")
    for axes in panels[len(others) :]:
        axes.set_axis_off()
    labels = [
        f"{condition_name(link, load).removeprefix('link ')}: {policy_label(policy)}"
        for link, load, policy in place
    ]
    panels[0].set_yticks(list(place.values()), labels)
    return figure
