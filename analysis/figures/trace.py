"""A bandwidth trace: its rates over time, and how often each is reached."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import GREY, new_figure, style
from testbed.errors import UserError
from testbed.traces.trace import SECOND_NS, BandwidthTrace

_SHOWN = 2_000  # means drawn: more than the page has dots
_NAMES = {"up": "uplink", "down": "downlink"}
_COLOURS = {"up": "#0072B2", "down": "#D55E00"}
_Floats = npt.NDArray[np.float64]
# No dates: the same trace gives the same bytes.
_METADATA = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}


def draw_trace(trace: BandwidthTrace) -> Figure:
    """A row for each direction: mean rate over time, outages grey; on the right the share of time.

    Long traces are drawn as means of equal pieces, so that no byte is lost between the dots.
    """
    figure = new_figure(2.3 * len(trace.directions) + 0.5)
    grid = figure.subplots(
        len(trace.directions), 2, squeeze=False, sharey="row", width_ratios=(4, 1)
    )
    for (left, right), direction in zip(grid, trace.directions, strict=True):
        mbps, edges_s = _steps(trace, direction)
        pieces = f" (means of {edges_s[1]:.3g} s)" if len(trace.t_ns) > _SHOWN else ""
        mean = _over_time(left, mbps, edges_s)
        told = f"mean {mean:.3g}, greatest {mbps.max():.3g} Mbit/s{pieces}"
        left.set_title(told, loc="left")
        _shares(right, mbps, edges_s)
        left.set_ylabel(f"{_NAMES[direction]}, Mbit/s")
        for axes, line in ((left, left.patches[0]), (right, right.lines[0])):
            line.set_color(_COLOURS[direction])
            axes.set_ylim(0, max(float(mbps.max()) * 1.08, 1e-6))
    figure.suptitle(trace.source)
    grid[-1, 0].set_xlabel("seconds (grey: no capacity; dashed: mean)")
    grid[-1, 1].set_xlabel("share of time below, %")
    return figure


def _steps(trace: BandwidthTrace, direction: str) -> tuple[_Floats, _Floats]:
    """Rates in Mbit/s and the edges in s between which they hold."""
    if len(trace.t_ns) > _SHOWN:
        step_ns = -(-trace.duration_ns // _SHOWN)
        rates = trace.means(direction, step_ns)
        starts = tuple(i * step_ns for i in range(len(rates)))
    else:
        rates, starts = trace.direction(direction), trace.t_ns
    edges = np.array([*starts, trace.duration_ns]) / SECOND_NS
    return np.array(rates) / 1e6, edges


def _over_time(axes: Axes, mbps: _Floats, edges_s: _Floats) -> float:
    """Draw the rates and their mean; returns the mean."""
    axes.stairs(mbps, edges_s, linewidth=1.0, baseline=None)
    dead = mbps == 0
    axes.broken_barh(
        list(zip(edges_s[:-1][dead], np.diff(edges_s)[dead], strict=True)), (0, 1),
        transform=axes.get_xaxis_transform(), facecolors="#D5D5D5", linewidth=0, zorder=0,
    )  # fmt: skip
    mean = float(np.average(mbps, weights=np.diff(edges_s)))
    axes.axhline(mean, color=GREY, linewidth=0.9, linestyle="--")
    axes.set_xlim(0, edges_s[-1])
    return mean


def _shares(axes: Axes, mbps: _Floats, edges_s: _Floats) -> None:
    order = np.argsort(mbps)
    share = np.cumsum(np.diff(edges_s)[order]) / edges_s[-1] * 100
    rates = mbps[order]
    axes.step(np.append(0, share), np.append(rates[0], rates), where="pre")
    axes.set_xlim(0, 100)


def write_trace_figure(trace: BandwidthTrace, path: Path) -> None:
    """Draw into ``path``, of the kind that its ending says: png, pdf or svg."""
    with style():
        try:
            draw_trace(trace).savefig(path, dpi=150, metadata=_METADATA[path.suffix])
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from error
