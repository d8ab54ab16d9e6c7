"""The mean latency of each policy, stacked from its parts."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.style import new_figure
from analysis.formats import number
from analysis.metrics import PARTS
from analysis.policies import policy_label

# Brown on the device, grey on the network, teal on the server: told apart by lightness too.
_COLOURS = {
    "decide": "#543005",
    "head": "#BF812D",
    "encode": "#EBD9A8",
    "network": "#C4C4C4",
    "wait": "#BFE3DD",
    "tail": "#35978F",
    "reply": "#8C8C8C",
    "other": "#003C30",
}


def draw_parts(frame: pd.DataFrame) -> Figure:
    """Horizontal stacked bars; a tick across each bar marks the floor.

    ``frame`` is :func:`analysis.metrics.breakdown` of the queries.
    """
    places = np.arange(len(frame))[::-1]
    figure = new_figure(0.42 * len(frame) + 1.3)
    axes = figure.subplots()
    left = np.zeros(len(frame))
    shown = [p for p in PARTS if (frame[f"{p}_ms"] > 0.002 * frame["e2e_ms"].max()).any()]
    for part in shown:
        width = frame[f"{part}_ms"].to_numpy()
        axes.barh(places, width, left=left, height=0.66, color=_COLOURS[part], label=part)
        left = left + width
    floor = frame["floor_ms"].to_numpy()
    axes.vlines(floor, places - 0.42, places + 0.42, color="black", linewidth=2, label="floor")
    for place, end in zip(places, frame["e2e_ms"], strict=True):
        axes.annotate(
            f"{number(end)} ms", (end, place), (5, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(places, [policy_label(p) for p in frame["policy"]])
    axes.set_xlim(0, frame["e2e_ms"].max() * 1.12)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("mean latency, ms")
    handles, labels = axes.get_legend_handles_labels()
    order = [labels.index(name) for name in (*shown, "floor")]
    figure.legend(
        [handles[n] for n in order],
        [labels[n] for n in order],
        loc="outside lower center",
        ncols=len(order),
    )
    return figure
