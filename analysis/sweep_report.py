"""Writes the report of a sweep: one HTML page, and beside it figures, tables and the summary."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from analysis.environment import environment_tables
from analysis.figures.gallery import Gallery
from analysis.figures.press import Press
from analysis.figures.style import Drawing, style
from analysis.page import Entry, render
from analysis.summary import plain_rows, plain_value
from analysis.sweep import Sweep, errors, load_sweep
from analysis.sweep_answer import answer, doubts, ninetieth, prediction, reading
from analysis.sweep_drawings import sweep_drawings
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


@dataclass(frozen=True)
class Part:
    """One section of the page."""

    key: str
    title: str
    drawings: tuple[Drawing, ...]
    tables: tuple[Table, ...]


def write_sweep_report(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Write the report into the sweep's folder; returns the page and the summary.

    Raises UserError for a folder that is no sweep's.
    """
    sweep = load_sweep(folder)
    out = folder / "report"
    for name in ("figures", "tables"):
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
    with style(), Press() as press:
        gallery = Gallery(press)
        drawings = sweep_drawings(sweep)
        gallery.hang(drawings.values())
        images = gallery.save(out / "figures")
    parts = _parts(sweep, drawings)
    tables = [table for part in parts for table in part.tables]
    for table in tables:
        table.frame.to_csv(out / "tables" / f"{table.name}.csv", index=False)
    summary = _summary(sweep, tables)
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    (out / "summary.json").write_text(text + "\n")
    page = out / "report.html"
    page.write_text(_render(sweep, parts, images, summary))
    return page, summary


def _parts(sweep: Sweep, drawings: dict[str, Drawing]) -> list[Part]:
    variant = sweep.measured_variant
    made = [
        (
            "accountings",
            "What is counted as sent",
            ["variants"],
            [variants_table(sweep), encodings_table(sweep)],
        ),
        (
            "fastest",
            "Which split is the fastest where",
            ["latency", "best"],
            [crossings_table(sweep, variant)],
        ),
        ("worth", "What choosing is worth", ["gain"], [statics_table(sweep, variant)]),
        (
            "checked",
            "Is the prediction right?",
            ["cells"],
            [cells_table(sweep)] if sweep.cells else [],
        ),
        ("measured", "What was measured", [], [profile_table(sweep), *_loads(sweep)]),
        ("hosts", "The hosts", [], _hosts(sweep)),
    ]
    parts = [
        Part(key, title, tuple(drawings[n] for n in names if n in drawings), tuple(tables))
        for key, title, names, tables in made
    ]
    return [part for part in parts if part.drawings or part.tables]


def _loads(sweep: Sweep) -> list[Table]:
    return [loads_table(sweep)] if sweep.profile.get("loads") else []


def _hosts(sweep: Sweep) -> list[Table]:
    note = "Of the profile; everything recorded is in environment.HOST.json of every run."
    found = environment_tables({"profile": sweep.profile["key"]["hosts"]}, ["profile"])
    return [replace(table, note=note) for table in found]


def _summary(sweep: Sweep, tables: list[Table]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": sweep.experiment["name"],
        "answer": answer(sweep),
        "reading": reading(sweep),
        "prediction": prediction(sweep),
        "prediction_error": _sizes(errors(sweep)),
        "formula_error": _sizes(errors(sweep, against="retimed_ns")),
        "doubts": doubts(sweep),
        "tables": {table.name: plain_rows(table.frame) for table in tables},
    }


def _sizes(found: list[float]) -> dict[str, Any]:
    sizes = [abs(error) for error in found]
    return {
        "median": plain_value(median(sizes)) if sizes else None,
        "p90": plain_value(ninetieth(sizes)) if sizes else None,
        "max": plain_value(max(sizes)) if sizes else None,
        "n": len(sizes),
    }


def _render(
    sweep: Sweep, parts: list[Part], images: dict[str, str], summary: dict[str, Any]
) -> str:
    index = [
        Entry(
            part.key,
            part.title,
            tuple((drawing.name, drawing.title) for drawing in part.drawings),
            tuple((f"table.{table.name}", table.title) for table in part.tables),
        )
        for part in parts
    ]
    return render(
        "sweep.html.j2",
        name=sweep.experiment["name"],
        description=sweep.experiment["description"],
        model=sweep.profile["model"],
        sweep=sweep.folder.resolve().name,
        summary=summary,
        index=index,
        parts=parts,
        images=images,
    )
