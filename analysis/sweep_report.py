"""Writes the report of a sweep: one HTML page, and beside it figures, tables and the summary."""

from __future__ import annotations

import json
import shutil
from math import isfinite
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from analysis.figures.gallery import Gallery
from analysis.figures.style import Drawing, style
from analysis.figures.sweep import (
    draw_best,
    draw_cells,
    draw_gain,
    draw_latency,
    draw_variants,
)
from analysis.formats import number, percent
from analysis.page import render
from analysis.policies import split_label
from analysis.sweep import Sweep, best_static, errors, gain_map, load_sweep, shares
from analysis.sweep_tables import (
    cells_table,
    crossings_table,
    encodings_table,
    loads_table,
    profile_table,
    statics_table,
    variants_table,
)
from analysis.tables import Table
from testbed.records import SCHEMA_VERSION

# Beyond this the hosts were not the same at the end as at the start.
_DRIFT = 0.10
_DIGITS = 6


def write_sweep_report(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Write the report into the sweep's folder; returns the page and the summary.

    Raises UserError for a folder that is no sweep's.
    """
    sweep = load_sweep(folder)
    out = folder / "report"
    for name in ("figures", "tables"):
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
    variant = sweep.measured_variant
    tables = [
        variants_table(sweep),
        crossings_table(sweep, variant),
        statics_table(sweep, variant),
        *([cells_table(sweep)] if sweep.cells else []),
        encodings_table(sweep),
        profile_table(sweep),
        *([loads_table(sweep)] if sweep.profile.get("loads") else []),
    ]
    with style(), Gallery() as gallery:
        drawings = gallery.hang(_drawings(sweep))
        sources = gallery.save(out / "figures")
    images = [(drawing, sources[drawing.name]) for drawing in drawings]
    summary = _summary(sweep, tables)
    for table in tables:
        table.frame.to_csv(out / "tables" / f"{table.name}.csv", index=False)
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    (out / "summary.json").write_text(text + "\n")
    page = out / "report.html"
    page.write_text(_render(sweep, tables, images, summary))
    return page, summary


def _drawings(sweep: Sweep) -> list[Drawing]:
    variant = sweep.measured_variant
    told = variant.label
    found = [
        Drawing(
            "variants",
            "Who is the fastest, under every accounting",
            "The same measured times throughout: only what is counted as sent differs.",
            draw_variants([shares(sweep, each) for each in sweep.variants]),
        ),
        Drawing(
            "latency",
            "Latency against rate",
            f"Predicted from the profile, {told}. Dots: the fastest choice changes there.",
            draw_latency(sweep, variant),
        ),
        Drawing(
            "best",
            "The map of the best split",
            f"Over rate × batch, and over rate × server load ({told}). Load is how many times "
            "longer the server takes.",
            draw_best(sweep, variant),
        ),
        Drawing(
            "gain",
            "What each static choice loses",
            f"Its latency over the best choice's, cell by cell, on one scale ({told}); 1 where it "
            "is the best choice itself. Nothing is clipped.",
            draw_gain(sweep, variant),
        ),
    ]
    if errors(sweep):
        caption = "Cells of the grid that were really run; bars from the least to the most."
        figure = draw_cells(sweep)
        found.append(Drawing("cells", "Predicted against measured", caption, figure))
    return found


def answer(sweep: Sweep) -> str:
    """What choosing is worth, in one sentence."""
    variant = sweep.measured_variant
    static = best_static(sweep, variant)
    saving = float((1 - 1 / gain_map(sweep, variant, static)).mean())
    return (
        f"Choosing the split for each rate and batch size saves {percent(saving)} on average over "
        f"the best static choice, {split_label(static)} ({variant.label})."
    )


def reading(sweep: Sweep) -> str:
    """The table of accountings in two sentences: how much what is counted decides."""
    found: dict[str | None, list[float]] = {}
    for variant in sweep.variants:
        found.setdefault(variant.pixels, []).append(shares(sweep, variant)["split_share"])
    told = [
        f"{_range(each)} {f'with offload as {pixels}' if pixels else 'with offload left out'}"
        for pixels, each in found.items()
    ]
    return (
        f"A split beats both ends in {', '.join(told[:-1])} and {told[-1]}, as public code has it "
        "(the ranges are over the encodings of features). The measured times are the same "
        "throughout: what is counted as sent decides whether splitting wins, before any policy."
    )


def _range(values: list[float]) -> str:
    ends = [percent(min(values)), percent(max(values))]
    return " to ".join(dict.fromkeys(ends)) + " of the cells"


def prediction(sweep: Sweep) -> str:
    """How far the cells that were run lie from their predictions, in one sentence."""
    found = errors(sweep)
    if not found:
        return "No cell was run: the predictions are not checked."
    sizes = sorted(abs(error) for error in found)
    by_batch = ", ".join(
        f"batch {batch}: {percent(median(map(abs, own)))}"
        for batch in sweep.batches
        if (own := errors(sweep, batch))
    )
    return (
        f"{len(sweep.cells)} cells were run, {len(found)} candidates in all: measured lies "
        f"{percent(median(sizes))} from predicted in the median ({by_batch}), "
        f"{percent(_p90(sizes))} in the 90th percentile and {percent(sizes[-1])} at worst "
        f"(signed median {number(median(found) * 100)} %)."
    )


def _p90(sizes: list[float]) -> float:
    return quantiles(sizes, n=10, method="inclusive")[-1] if len(sizes) > 1 else sizes[0]


def doubts(sweep: Sweep) -> list[str]:
    """What should be known before the figures are believed."""
    profile = sweep.profile
    found = [
        f"batch {', '.join(loose)}: the time budget was spent before every median was known within "
        f"±{percent(profile['tolerance'])}"
        for loose in [[b for b, stopped in profile["stopped"].items() if stopped != "tight"]]
        if loose
    ]
    drifted = {s: r for s, r in profile["drift"].items() if abs(r - 1) > _DRIFT}
    if drifted:
        told = ", ".join(f"{split_label(s)} ×{r:.3g}" for s, r in drifted.items())
        found.append(f"the hosts drifted: at the end the first batch size took {told}")
    found += [f"the link was not as asked: {fault}" for fault in sweep.link_faults]
    lossy = [s for s, verdict in sweep.verify.items() if not verdict["top1"]]
    if lossy:
        found.append(f"the encoding changed the class of an image at {', '.join(lossy)}")
    return found


def _summary(sweep: Sweep, tables: list[Table]) -> dict[str, Any]:
    sizes = [abs(error) for error in errors(sweep)]
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": sweep.experiment["name"],
        "answer": answer(sweep),
        "reading": reading(sweep),
        "prediction": prediction(sweep),
        "prediction_error": {
            "median": _plain(median(sizes)) if sizes else None,
            "p90": _plain(_p90(sizes)) if sizes else None,
            "max": _plain(max(sizes)) if sizes else None,
            "n": len(sizes),
        },
        "doubts": doubts(sweep),
        "tables": {
            table.name: [
                {str(key): _plain(value) for key, value in row.items()}
                for row in table.frame.to_dict("records")
            ]
            for table in tables
        },
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it: six significant digits, null for what is not known."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if isfinite(value) else None
    return value.item() if hasattr(value, "item") else value


def _render(
    sweep: Sweep, tables: list[Table], images: list[tuple[Drawing, str]], summary: dict[str, Any]
) -> str:
    return render(
        "sweep.html.j2",
        name=sweep.experiment["name"],
        description=sweep.experiment["description"],
        model=sweep.profile["model"],
        summary=summary,
        tables=tables,
        images=images,
        hosts=sweep.profile["key"]["hosts"],
    )
