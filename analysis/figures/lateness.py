"""How late the router applied the rate changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.marks import mark_log
from analysis.figures.style import new_figure

_COLOURS = {"uplink": "#0072B2", "downlink": "#E69F00"}


def draw_lateness(changes: pd.DataFrame) -> Figure:
    """Share of the changes applied at most so late, a line a direction."""
    figure = new_figure(3.2)
    axes = figure.subplots()
    late = changes.assign(late_ms=changes["late_ns"] / 1e6).dropna(subset=["late_ms"])
    for side, rows in late.groupby("direction", sort=False):
        late_ms = np.sort(rows["late_ms"].to_numpy())
        share = np.arange(1, len(late_ms) + 1) / len(late_ms)
        label = f"{side} (n {len(late_ms)})"
        own, _, router = str(side).partition("-")
        style: dict[str, Any] = {"color": _COLOURS[own], "linestyle": "--" if router else "-"}
        axes.step(late_ms, share, where="post", linewidth=2, label=label, **style)
    positive = late["late_ms"] > 0
    if positive.all() and late["late_ms"].max() > 8 * late["late_ms"].min():
        axes.set_xscale("log")
        mark_log(axes.xaxis)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("applied after the planned moment, ms")
    axes.set_ylabel("share of changes")
    figure.legend(loc="outside right center")
    return figure
