"""Figures of the sweep: latency against rate, maps of the best split, of gain, and variants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.figures.marks import mark_log
from analysis.figures.style import GREY, new_figure, split_colours
from analysis.formats import number
from analysis.policies import split_label
from analysis.sweep import Floats, Sweep, Variant, best_of, gain_map, latencies, stretches

_MBIT = 1e6
_PANELS = 6  # batch sizes that have a panel of their own
_NAMED = 8  # rows of a map that are named
_MARKS = 5  # of a narrow panel's axis
_MAP_MARKS = 3  # and of a map's


def shown_batches(sweep: Sweep) -> list[int]:
    """The batch sizes that have a panel of their own: all, or some from the least to the most."""
    places = np.linspace(0, len(sweep.batches) - 1, min(_PANELS, len(sweep.batches)))
    return [sweep.batches[round(place)] for place in places]


def _grid(count: int, columns: int, row_in: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels in rows, and a legend's height below."""
    rows = -(-count // columns)
    figure = new_figure(row_in * rows + 0.5)
    panels = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def draw_latency(sweep: Sweep, variant: Variant) -> Figure:
    """Latency against rate at each batch size; dots where the fastest split changes."""
    colours = split_colours(sweep.splits)
    rates = sweep.rates_bps
    batches = shown_batches(sweep)
    figure, panels = _grid(len(batches), min(3, len(batches)), 3.1)
    for axes, batch in zip(panels, batches, strict=True):
        found = latencies(sweep, variant, batch, rates)
        for split, times in found.items():
            axes.plot(
                np.array(rates) / _MBIT, times, color=colours[split], label=split_label(split)
            )
        best, least = best_of(found)
        for stretch in stretches(best, rates)[1:]:
            at = rates.index(stretch.low_bps)
            axes.plot(rates[at] / _MBIT, least[at], "o", color="black", ms=5, zorder=5)
        axes.set(title=f"batch {batch}", xscale="log", yscale="log", xlabel="uplink rate, Mbit/s")
        mark_log(axes.xaxis, _MARKS)
        mark_log(axes.yaxis)
    panels[0].set_ylabel("predicted latency, ms")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(7, len(labels)))
    return figure


def _edges(rates_bps: Sequence[int]) -> Floats:
    """Cell edges around rates, in Mbit/s: halfway on the logarithm that the axis has."""
    logs = np.log(np.array(rates_bps, dtype=float) / _MBIT)
    inner = (logs[1:] + logs[:-1]) / 2
    first = logs[0] - (inner[0] - logs[0]) if len(inner) else logs[0] - 0.1
    last = logs[-1] + (logs[-1] - inner[-1]) if len(inner) else logs[-1] + 0.1
    edges: Floats = np.exp(np.concatenate([[first], inner, [last]]))
    return edges


def _map_axes(axes: Axes, rates_bps: Sequence[int], rows: Sequence[Any], ylabel: str) -> None:
    axes.set(xscale="log", xlabel="uplink rate, Mbit/s", ylabel=ylabel)
    axes.set_xlim(_edges(rates_bps)[0], _edges(rates_bps)[-1])
    named = range(0, len(rows), -(-len(rows) // _NAMED))
    axes.set_yticks([place + 0.5 for place in named], [f"{rows[place]:g}" for place in named])
    axes.grid(False)
    mark_log(axes.xaxis, _MAP_MARKS)


def draw_best(sweep: Sweep, variant: Variant) -> Figure:
    """The fastest split over rate × batch, and over rate × server load at each batch size."""
    colours, rates = split_colours(sweep.splits), sweep.rates_bps
    place = {split: n for n, split in enumerate(sweep.splits)}
    palette = ListedColormap([colours[split] for split in sweep.splits])
    norm = BoundaryNorm(np.arange(len(place) + 1) - 0.5, len(place))
    by_batch = [best_of(latencies(sweep, variant, b, rates))[0] for b in sweep.batches]
    tables: list[tuple[str, list[list[str]], Sequence[Any], str]] = [
        ("server alone", by_batch, sweep.batches, "batch")
    ]
    for batch in shown_batches(sweep):
        by_load = [best_of(latencies(sweep, variant, batch, rates, x))[0] for x in sweep.loads]
        tables.append((f"batch {batch}", by_load, sweep.loads, "server load"))
    figure, panels = _grid(len(tables), min(4, len(tables)), 3.1)
    seen = set()
    for axes, (title, table, rows, ylabel) in zip(panels, tables, strict=True):
        cells = np.array([[place[split] for split in row] for row in table])
        seen |= set(cells.ravel().tolist())
        y = np.arange(len(rows) + 1)
        axes.pcolormesh(_edges(rates), y, cells, cmap=palette, norm=norm, rasterized=True)
        axes.set_title(title)
        _map_axes(axes, rates, rows, ylabel)
    shown = [split for split in sweep.splits if place[split] in seen]
    handles = [Patch(color=colours[split], label=split_label(split)) for split in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(7, len(handles)))
    return figure


def draw_gain(sweep: Sweep, variant: Variant, best: str) -> Figure:
    """How many times as long each static choice takes as the best choice, not clipped.

    The title of the best static choice is bold.
    """
    statics = sweep.statics(variant)
    maps = {static: gain_map(sweep, variant, static) for static in statics}
    highest = max(float(table.max()) for table in maps.values())
    norm = LogNorm(1.0, max(highest, 1.01))
    figure, panels = _grid(len(statics), min(4, len(statics)), 2.2)
    mesh = None
    for axes, static in zip(panels, statics, strict=True):
        y = np.arange(len(sweep.batches) + 1)
        table = maps[static]
        mesh = axes.pcolormesh(
            _edges(sweep.rates_bps), y, table, cmap="viridis_r", norm=norm, rasterized=True
        )
        axes.set_title(
            f"{split_label(static)}: up to ×{number(float(table.max()))}",
            fontweight="bold" if static == best else "normal",
        )
        _map_axes(axes, sweep.rates_bps, sweep.batches, "batch")
    if mesh is not None:
        bar = figure.colorbar(mesh, ax=panels, label="times as long as the best choice")
        mark_log(bar.ax.yaxis, 6)
    return figure


def draw_variants(rows: Sequence[dict[str, Any]]) -> Figure:
    """For each accounting, in which share of the cells each kind of choice is the fastest."""
    figure = new_figure(0.34 * len(rows) + 1.2)
    axes = figure.subplots()
    kinds = {"local": "#D55E00", "split": "#009E73", "offload": "#0072B2"}
    left = np.zeros(len(rows))
    y = np.arange(len(rows))[::-1]
    for kind, colour in kinds.items():
        width = np.array([row[f"{kind}_share"] * 100 for row in rows])
        axes.barh(y, width, left=left, color=colour, label=kind, height=0.75)
        left += width
    axes.set_yticks(y, [row["accounting"] for row in rows])
    axes.set(xlabel="share of rate × batch in which it is the fastest, %", xlim=(0, 100))
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def draw_cells(sweep: Sweep) -> Figure:
    """Predicted against measured, a point a candidate of each cell, bars from least to most."""
    figure = new_figure(5.0)
    axes = figure.subplots()
    colours = split_colours(sweep.splits)
    ends: list[float] = []
    for split in sweep.splits:
        rows = [cell["candidates"].get(split) for cell in sweep.cells]
        told = [row for row in rows if row and row["measured_ns"] is not None]
        x = np.array([row["predicted_ns"] for row in told]) / 1e6
        y = np.array([row["measured_ns"] for row in told]) / 1e6
        low = y - np.array([row["low_ns"] for row in told]) / 1e6
        high = np.array([row["high_ns"] for row in told]) / 1e6 - y
        axes.errorbar(
            x,
            y,
            yerr=[low, high],
            fmt="o",
            ms=5,
            color=colours[split],
            elinewidth=1,
            label=split_label(split),
        )
        ends += [*x, *(y - low), *(y + high)]
    span = (min(ends) / 1.3, max(ends) * 1.3)
    axes.plot(span, span, color=GREY, linewidth=1, zorder=0)
    axes.set(xscale="log", yscale="log", xlim=span, ylim=span)
    axes.set(xlabel="predicted latency, ms", ylabel="measured latency, ms (median)")
    axes.set_aspect("equal")
    mark_log(axes.xaxis, 8)
    mark_log(axes.yaxis, 8)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(7, len(labels)))
    return figure
