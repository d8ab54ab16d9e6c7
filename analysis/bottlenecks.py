"""One page that compares the bottlenecks of many networks, in a single file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures.bottlenecks import draw_bottlenecks
from analysis.figures.style import Drawing, style
from analysis.formats import NARROW, number
from analysis.page import render
from analysis.tables import Table, count, text

_A_FIGURE = 16  # networks in one figure: half a sheet of paper
_CAPTION = (
    "Each panel is one network at the input size beside its name. Below the solid line a split "
    "point is a natural bottleneck; a compressive one is narrower than every one before it. "
    "On the dotted line, features sent as float32 are as many bytes as the raw input."
)


def write_page(
    documents: Sequence[dict[str, Any]], title: str, description: str, path: Path
) -> None:
    """Write the page whole, figure and all.

    Args:
        documents: as ``testbed bottlenecks --json`` prints them, one a model.
        title: the page's heading.
        description: a sentence under it.
        path: where to write the HTML file.
    """
    parts = [documents[n : n + _A_FIGURE] for n in range(0, len(documents), _A_FIGURE)]
    with style():
        pictures = [_picture(part, n, len(parts)) for n, part in enumerate(parts, 1)]
    page = render(
        "bottlenecks.html.j2",
        title=title,
        description=description,
        pictures=pictures,
        table=_table(documents),
        below_pixels=sum(_least(document) < 0.25 for document in documents),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _picture(documents: Sequence[dict[str, Any]], n: int, of: int) -> tuple[Drawing, str]:
    """A figure and its source in the page."""
    figure = draw_bottlenecks(documents)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    coded = base64.b64encode(buffer.getvalue()).decode()
    title = "Along the depth" + (f", {n} of {of}" if of > 1 else "")
    return Drawing(f"depth{n}", title, _CAPTION, figure), f"data:image/png;base64,{coded}"


def _table(documents: Sequence[dict[str, Any]]) -> Table:
    return Table(
        "networks",
        "In numbers",
        "A ratio is elements at the split point over elements of the input; an index counts the "
        "split points from 0.",
        pd.DataFrame([_row(document) for document in documents]),
        (
            ("network", text("model")),
            ("input", text("resolution")),
            ("compressive bottlenecks (index: ratio)", text("told")),
            ("split points", count("split_points")),
            ("natural", count("natural")),
        ),
        style="words",
    )


def _row(document: dict[str, Any]) -> dict[str, Any]:
    compressive = [point for point in document["split_points"] if point["compressive"]]
    told = [f"{point['index']}:{NARROW}{number(point['ratio'])}" for point in compressive]
    return {
        "model": document["model"],
        "resolution": document["resolution"],
        "told": " · ".join(told) or "none",
        **document["counts"],
    }


def _least(document: dict[str, Any]) -> float:
    return min((point["ratio"] for point in document["split_points"]), default=1.0)
