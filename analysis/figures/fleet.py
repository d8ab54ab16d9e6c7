"""The distribution of each device's latency, a panel a policy."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from analysis.figures.marks import mark_log
from analysis.figures.style import new_figure
from analysis.metrics import by_policy, counted
from analysis.policies import policy_label

_PANELS_A_ROW = 3
_DASHES = ("-", "--", "-.", ":")


def draw_fleet(queries: pd.DataFrame) -> Figure:
    """Share of a device's queries that took at most so long, in every policy's own panel."""
    done = counted(queries)
    groups = by_policy(done)
    devices = sorted(done["device"].unique())
    shades = colormaps["viridis"].resampled(len(devices) + 1)
    columns = 2 if len(groups) in (2, 4) else min(_PANELS_A_ROW, len(groups))
    lines = -(-len(groups) // columns)
    figure = new_figure(0.5 + 2.5 * lines)
    panels = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, (policy, rows) in zip(panels, groups, strict=False):
        for number, device in enumerate(devices):
            mine = rows.loc[rows["device"] == device, "e2e_ns"].to_numpy() / 1e6
            if not len(mine):
                continue
            axes.step(
                np.sort(mine),
                np.arange(1, len(mine) + 1) / len(mine),
                where="post",
                color=shades(number),
                linestyle=_DASHES[number % len(_DASHES)],
                linewidth=1.8,
                label=device,
            )
        axes.set_title(policy_label(policy))
        axes.set_ylim(0, 1.01)
    if done["e2e_ns"].max() > 8 * done["e2e_ns"].min():
        panels[0].set_xscale("log")  # of all: they share it, and with it the marks
        mark_log(panels[0].xaxis, 6)
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    figure.supxlabel("end-to-end latency, ms", fontsize=10)
    figure.supylabel("share of a device's queries", fontsize=10)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    return figure
