"""The distribution of end-to-end latency, a line a policy."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.marks import mark_log
from analysis.figures.style import new_figure
from analysis.metrics import by_policy, counted
from analysis.policies import DYNAMIC, policy_label, split_of


def draw_distribution(queries: pd.DataFrame, colours: dict[str, str]) -> Figure:
    """Share of the queries that took at most so long."""
    done = counted(queries, "e2e_ns")
    groups = by_policy(done)
    figure = new_figure(4.0)
    axes = figure.subplots()
    for policy, rows in groups:
        latency_ms = np.sort(rows["e2e_ns"].to_numpy() / 1e6)
        share = np.arange(1, len(latency_ms) + 1) / len(latency_ms)
        axes.step(
            np.concatenate([latency_ms[:1], latency_ms]),
            np.concatenate([[0.0], share]),
            where="post",
            color=colours[policy],
            linewidth=2.6 if policy == DYNAMIC else 1.6,
            linestyle="-" if policy == DYNAMIC or split_of(policy) else "--",
            label=policy_label(policy),
        )
    if done["e2e_ns"].max() > 8 * done["e2e_ns"].min():
        axes.set_xscale("log")
        mark_log(axes.xaxis)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("end-to-end latency, ms")
    axes.set_ylabel("share of queries")
    figure.legend(loc="outside right center")
    return figure
