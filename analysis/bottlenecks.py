"""One page that compares the bottlenecks of many networks, in a single file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.figures.bottlenecks import draw_bottlenecks
from analysis.figures.style import style
from analysis.page import render


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
    buffer = io.BytesIO()
    with style():
        draw_bottlenecks(documents).savefig(
            buffer, format="png", dpi=150, metadata={"Software": None}
        )
    page = render(
        "bottlenecks.html.j2",
        title=title,
        description=description,
        figure=f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        models=[_row(document) for document in documents],
        below_pixels=sum(_least(document) < 0.25 for document in documents),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _row(document: dict[str, Any]) -> dict[str, Any]:
    compressive = [point for point in document["split_points"] if point["compressive"]]
    return {
        **document,
        "least": _least(document),
        "told": [f"{point['index']}: {point['ratio']:.4f}" for point in compressive],
    }


def _least(document: dict[str, Any]) -> float:
    return min((point["ratio"] for point in document["split_points"]), default=1.0)
