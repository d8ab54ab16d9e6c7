"""Predicted against measured latency, and estimated against set rate, a point a query."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.marks import mark_log
from analysis.figures.style import GREY, new_figure
from analysis.metrics import counted
from analysis.policies import ordered_splits, split_label

_NEEDED = ("split", "predicted_ns", "e2e_ns", "up_bps", "rate_est_bps")


def predicted(queries: pd.DataFrame) -> pd.DataFrame:
    """The queries that have a prediction to compare."""
    done = counted(queries, *_NEEDED)
    return done[done["predicted_ns"] > 0]


def draw_prediction(queries: pd.DataFrame, colours: dict[str, str]) -> Figure:
    """Latency in ms, and the uplink's rate in Mbit/s where one was estimated."""
    told = predicted(queries)
    estimated = told.dropna(subset=["rate_est_bps", "up_bps"])
    estimated = estimated[estimated["up_bps"] > 0]  # in an outage nothing is set
    figure = new_figure(4.7)
    panels = figure.subplots(1, 2 if len(estimated) else 1, squeeze=False)[0]
    _against(panels[0], told, ("predicted_ns", "e2e_ns"), 1e-6, colours)
    panels[0].set(xlabel="predicted latency, ms", ylabel="measured latency, ms")
    if len(estimated):
        _against(panels[1], estimated, ("up_bps", "rate_est_bps"), 1e-6, colours)
        panels[1].set(xlabel="rate set, Mbit/s", ylabel="rate estimated, Mbit/s")
    handles = [
        Line2D([], [], color=colours[split], marker="o", linestyle="", label=split_label(split))
        for split in ordered_splits(told["split"].unique())
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8))
    return figure


def _against(
    axes: Axes, rows: pd.DataFrame, names: tuple[str, str], scale: float, colours: dict[str, str]
) -> None:
    both = rows[list(names)] * scale
    low, high = float(both.min().min()) / 1.1, float(both.max().max()) * 1.1
    axes.axline((low, low), (high, high), color=GREY, linewidth=1)
    for split in ordered_splits(rows["split"].unique()):
        part = both[rows["split"] == split]
        axes.plot(
            part[names[0]],
            part[names[1]],
            ".",
            color=colours[split],
            ms=7,
            alpha=0.7,
            markeredgewidth=0,
            rasterized=True,
        )
    if high > 4 * low:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    if high > 4 * low:
        mark_log(axes.xaxis, 8)
        mark_log(axes.yaxis, 8)
