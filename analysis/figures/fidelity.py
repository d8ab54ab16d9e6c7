"""What a replayed link carried against what its trace offers, from the link's bench."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.marks import mark_log
from analysis.figures.style import GREY, new_figure, style

_OFFERED, _CARRIED = "#B5B5B5", "#0072B2"
_NAME_MOST = 60  # characters that the title has room for


def draw_fidelity(found: Mapping[str, Any]) -> Figure:
    """Offered and carried rate of the middle run, its errors, lateness of all runs.

    ``found`` is the bench's document.
    """
    runs = [run for run in found["runs"] if not run["disturbed"]] or found["runs"]
    run = sorted(runs, key=lambda one: one["error_100ms"])[len(runs) // 2]
    figure = new_figure(4.6)
    grid = figure.subplots(2, 2, width_ratios=(3, 1), height_ratios=(2, 1))
    _rates(grid[0, 0], run)
    _errors(grid[1, 0], run)
    _scatter(grid[0, 1], run)
    _lateness(grid[1, 1], [late for one in runs for late in one["late_ms"]])
    medians, name = found["median"], found["trace"]
    if len(name) > _NAME_MOST:  # as a generated trace's, which has all its settings in it
        name = f"{name[:_NAME_MOST]}…"
    figure.suptitle(
        f"{name} on a {found['router']} router, median of {found['undisturbed']} × "
        f"{found['seconds']:g} s\nerror {medians['error_1s']:.2%} in bins of 1 s, "
        f"{medians['error_100ms']:.2%} of 100 ms, r {medians['correlation_100ms']:.4f}",
        fontsize=10,
    )
    return figure


def _rates(axes: Axes, run: Mapping[str, Any]) -> None:
    capacity = np.array(run["capacity_bps_100ms"]) / 1e6
    carried = np.array(run["carried_bps_100ms"]) / 1e6
    edges_s = np.arange(len(capacity) + 1) / 10
    axes.stairs(capacity, edges_s, fill=True, color=_OFFERED, label="trace")
    axes.stairs(carried, edges_s, color=_CARRIED, linewidth=1.0, baseline=None, label="carried")
    axes.set_xlim(0, edges_s[-1])
    axes.set_ylim(0, float(max(capacity.max(), carried.max())) * 1.2)
    axes.set_ylabel("Mbit/s of IP bytes")
    axes.legend(loc="upper right", ncols=2)


def _errors(axes: Axes, run: Mapping[str, Any]) -> None:
    bound = 1.0
    for bins, width_s, colour in (("100ms", 0.1, _OFFERED), ("1s", 1.0, _CARRIED)):
        capacity, carried = (
            np.array(run[f"capacity_bps_{bins}"]),
            np.array(run[f"carried_bps_{bins}"]),
        )
        has = capacity > 0
        error = 100 * (carried[has] / capacity[has] - 1)
        middle_s = (np.flatnonzero(has) + 0.5) * width_s
        axes.plot(middle_s, error, ".", color=colour, markersize=3 + 3 * width_s)
        bound = max(bound, float(np.abs(error).max()) * 1.1)
        axes.set_xlim(0, len(capacity) * width_s)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_ylim(-bound, bound)
    axes.set_xlabel("seconds (grey: bins of 100 ms, blue: of 1 s)")
    axes.set_ylabel("error, %")


def _scatter(axes: Axes, run: Mapping[str, Any]) -> None:
    capacity = np.array(run["capacity_bps_100ms"]) / 1e6
    carried = np.array(run["carried_bps_100ms"]) / 1e6
    axes.plot([0, capacity.max()], [0, capacity.max()], color=GREY, linewidth=0.8)
    axes.plot(capacity, carried, ".", color=_CARRIED, markersize=3)
    axes.set_xlabel("trace, Mbit/s in 100 ms")
    axes.set_ylabel("carried")


def _lateness(axes: Axes, late_ms: list[float]) -> None:
    late = np.sort(late_ms)
    axes.step(late, np.arange(1, len(late) + 1) / len(late), where="post", color=_CARRIED)
    if late[0] > 0:
        axes.set_xscale("log")
        mark_log(axes.xaxis, 4)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"change late by, ms (n {len(late)})")
    axes.set_ylabel("share")


def write_fidelity_figure(found: Mapping[str, Any], path: Path) -> None:
    """Draw into a PNG file."""
    with style():
        draw_fidelity(found).savefig(path, dpi=150, metadata={"Software": None})
