"""Compression ratio along the depth of networks: where each can be cut cheaply."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.marks import mark_log
from analysis.figures.style import new_figure, style

_COLUMNS = 4
_PANEL_IN = 1.6
_SMALL_PT = 8.5  # of words in one panel of many
_COMPRESSIVE, _NATURAL, _OTHER = "#D55E00", "#0072B2", "#9A9A9A"
# A float32 feature is four bytes, a pixel of the raw input one.
_RAW_PIXELS = 0.25


def draw_bottlenecks(documents: Sequence[dict[str, Any]]) -> Figure:
    """One panel a model: ratio against index, with the bottlenecks marked.

    Args:
        documents: as ``testbed bottlenecks --json`` prints them.
    """
    columns = min(_COLUMNS, len(documents))
    rows = ceil(len(documents) / columns)
    figure = new_figure(3.8 if rows == 1 else rows * _PANEL_IN + 0.8)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, document in zip(grid.flat, documents, strict=False):
        _panel(axes, document, small=len(documents) > 1)
    for axes in list(grid.flat)[len(documents) :]:
        axes.set_visible(False)
    # All of them share it, and with it the marks.
    mark_log(grid[0, 0].yaxis, 3 if len(documents) > 1 else 10)
    # At every row: the middle of a tall figure is far from its top.
    for axes in grid[:, 0]:
        axes.set_ylabel("ratio" if len(documents) > 1 else "elements out / elements in")
    figure.supxlabel("split point, by depth", fontsize=10)
    figure.legend(handles=_legend(), loc="outside upper center", ncols=3)
    return figure


def save_plot(documents: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the figure; its kind is the file name's."""
    with style():
        draw_bottlenecks(documents).savefig(path, dpi=150)


def _panel(axes: Axes, document: dict[str, Any], small: bool) -> None:
    points = document["split_points"]
    index = [point["index"] for point in points]
    ratios = [point["ratio"] for point in points]
    axes.plot(index, ratios, color="#C4C4C4", linewidth=1, zorder=1)
    size = 8 if small else 26
    for point in points:
        colour = _NATURAL if point["natural"] else _OTHER
        if point["compressive"]:
            axes.scatter(point["index"], point["ratio"], s=3 * size, color=_COMPRESSIVE, zorder=3)
            if not small:
                told = f"{point['index']}: {point['ratio']:.4f}"
                axes.annotate(
                    told, (point["index"], point["ratio"]), (5, 5), textcoords="offset points"
                )
        else:
            axes.scatter(point["index"], point["ratio"], s=size, color=colour, zorder=2)
    axes.axhline(1, color="black", linewidth=0.9, zorder=0.8)
    axes.axhline(_RAW_PIXELS, color="black", linewidth=0.9, linestyle=":", zorder=0.8)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4 if small else 12, integer=True))
    name = document["model"].partition(":")[2] or document["model"]
    title = f"{name} · {document['resolution']}"
    axes.set_title(title, fontsize=_SMALL_PT if small else 10, loc="left")
    if small:
        axes.tick_params(labelsize=_SMALL_PT)


def _legend() -> list[Line2D]:
    dots: dict[str, Any] = {"marker": "o", "linestyle": "none"}
    return [
        Line2D([], [], color=_COMPRESSIVE, label="compressive bottleneck", **dots),
        Line2D([], [], color=_NATURAL, label="natural bottleneck", **dots),
        Line2D([], [], color=_OTHER, label="neither", **dots),
        Line2D([], [], color="black", label="as many elements as the input"),
        Line2D([], [], color="black", linestyle=":", label="float32 sends as much as raw pixels"),
    ]
