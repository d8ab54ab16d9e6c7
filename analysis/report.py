"""Writes a campaign's report: one HTML file, and beside it figures, tables and the summary."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd

from analysis import metrics, trust
from analysis.answer import answer, condition_name, headline, over_best
from analysis.bins import Binned, bin_tables
from analysis.campaign_tables import campaign_tables
from analysis.condition_tables import condition_tables
from analysis.dataset import Dataset, load_dataset
from analysis.drawings import condition_drawings, link_drawings
from analysis.environment import environment_tables
from analysis.figures.gallery import Gallery
from analysis.figures.press import Press
from analysis.figures.style import Drawing, palette, style
from analysis.fleet import fleet_tables
from analysis.frames import KINDS
from analysis.hindsight import costs_by_trial, hindsight
from analysis.interactive import interactive_distribution
from analysis.markdown import markdown
from analysis.matrix import matrix, matrix_tables
from analysis.page import report_page
from analysis.recovery import recovery_tables
from analysis.replay import with_floor
from analysis.summary import Section, plain_rows, stacked, summarise, told_doubts


def write_report(campaign_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a campaign (or of one run's folder); returns the HTML file's path.

    Args:
        campaign_dir: the folder of records, read only.
        out: where to write; default ``report`` in the campaign (``report.<run>`` beside a run).

    Raises UserError for a folder without records, and for records of a newer release.
    """
    with style(), Press() as press:
        gallery = Gallery(press)
        data = load_dataset(campaign_dir)
        single = (campaign_dir / "plan.json").is_file()
        if out is None:
            out = campaign_dir.with_name(f"report.{campaign_dir.name}") if single else None
        return _write(data, out or campaign_dir / "report", gallery)


def _write(data: Dataset, folder: Path, gallery: Gallery) -> Path:
    for name in ("figures", "tables", "records"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    # Figures as early as can be: they are drawn while the tables are made.
    shared, colours = gallery.hang(link_drawings(data)), palette(data)
    queries = with_floor(data)
    judged = hindsight(data, queries)
    rows = {key: metrics.under(queries, *key) for key in data.conditions}
    hung = {
        key: gallery.hang(condition_drawings(data, part, metrics.under(judged, *key), colours, key))
        for key, part in rows.items()
    }
    binned = {key: bin_tables(part) for key, part in rows.items()}
    sections = [
        _section(data, part, binned[key], metrics.under(judged, *key), *key, colours, hung[key])
        for key, part in rows.items()
    ]
    costs = costs_by_trial(judged)
    tables = [*matrix_tables(data, costs), *recovery_tables(data), *fleet_tables(data, queries)]
    tables += campaign_tables(data, queries, binned)
    tables += environment_tables(data.recorded, [run.folder.name for run in data.runs])
    transfers = stacked("transfers", sections)
    best = [found for part in rows.values() if (found := over_best(part))]
    summary = summarise(data, sections, tables)
    summary["matrix"] = plain_rows(matrix(data, costs))
    summary["answer"] = headline([s.answer for s in sections], best)
    summary |= told_doubts(trust.doubts(data, queries, transfers))
    for name, told in summary["tables"].items():
        pd.DataFrame(told).to_csv(folder / "tables" / f"{name}.csv", index=False)
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "summary.json").write_text(text + "\n")
    (folder / "report.md").write_text(markdown(data.name, summary, sections, tables, shared))
    for kind in KINDS:
        frame: pd.DataFrame = getattr(data, kind)
        frame.to_parquet(folder / "records" / f"{kind}.parquet", index=False)
    images = gallery.save(folder / "figures")
    page = folder / "report.html"
    page.write_text(report_page(data, sections, tables, shared, images, summary))
    return page


def _section(
    data: Dataset,
    rows: pd.DataFrame,
    binned: Binned,
    judged: pd.DataFrame,
    link: str,
    load: str,
    colours: dict[str, str],
    drawings: list[Drawing],
) -> Section:
    return Section(
        title=condition_name(link, load),
        key=f"{link}.{load}",
        link=link,
        load=load,
        answer=answer(data, rows, binned, link, load),
        tables=condition_tables(data, rows, binned, judged),
        drawings=drawings,
        plot=interactive_distribution(rows, colours) if drawings else "",
    )
