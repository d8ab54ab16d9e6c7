"""Writes a campaign's report: one HTML file, and beside it figures, tables and the summary."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

import testbed
from analysis import metrics, trust
from analysis.answer import answer, condition_name, gain_over_best, headline
from analysis.campaign_tables import campaign_tables
from analysis.condition_tables import condition_tables
from analysis.dataset import Dataset, load_dataset
from analysis.figures.distribution import draw_distribution
from analysis.figures.fleet import draw_fleet
from analysis.figures.lateness import draw_lateness
from analysis.figures.parts import draw_parts
from analysis.figures.prediction import draw_prediction, predicted
from analysis.figures.style import Drawing, palette, save, style
from analysis.figures.timeline import draw_timeline
from analysis.fleet import devices_of, fleet_tables
from analysis.formats import number
from analysis.hindsight import costs_by_trial, hindsight
from analysis.interactive import interactive_distribution
from analysis.markdown import markdown
from analysis.matrix import matrix, matrix_tables
from analysis.recovery import recovery_tables
from analysis.replay import with_floor
from analysis.summary import Section, plain_rows, stacked, summarise, told_doubts
from analysis.tables import Table

# The report stays under 3 MB; figures beyond this many inline bytes are linked to instead.
_INLINE_BYTES = 2_600_000


def write_report(campaign_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a campaign (or of one run's folder); returns the HTML file's path.

    Args:
        campaign_dir: the folder of records, read only.
        out: where to write; default ``report`` in the campaign (``report.<run>`` beside a run).

    Raises UserError for a folder without records, and for records of a newer release.
    """
    data = load_dataset(campaign_dir)
    single = (campaign_dir / "plan.json").is_file()
    if out is None:
        out = campaign_dir.with_name(f"report.{campaign_dir.name}") if single else None
    folder = out or campaign_dir / "report"
    for name in ("figures", "tables", "records"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    queries = with_floor(data)
    judged = hindsight(data, queries)
    with style():
        sections = [_section(data, queries, judged, link, load) for link, load in data.conditions]
        shared = _link_drawings(data)
        images = _save_all([*(d for s in sections for d in s.drawings), *shared], folder)
    tables = [*matrix_tables(data), *recovery_tables(data), *fleet_tables(data, queries)]
    tables += campaign_tables(data, queries)
    transfers = stacked("transfers", sections)
    gains = [gain_over_best(rows) for rows in _conditions(data, queries)]
    summary = summarise(data, sections, tables)
    summary["matrix"] = plain_rows(matrix(data, costs_by_trial(judged)))
    summary["answer"] = headline([s.answer for s in sections], gains)
    summary |= told_doubts(trust.doubts(data, queries, transfers))
    for name, rows in summary["tables"].items():
        pd.DataFrame(rows).to_csv(folder / "tables" / f"{name}.csv", index=False)
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "summary.json").write_text(text + "\n")
    (folder / "report.md").write_text(markdown(data.name, summary, sections, tables))
    for kind in ("queries", "changes", "samples", "load", "server"):
        frame: pd.DataFrame = getattr(data, kind)
        frame.to_parquet(folder / "records" / f"{kind}.parquet", index=False)
    page = folder / "report.html"
    page.write_text(_render(data, sections, tables, shared, images, summary))
    return page


def _conditions(data: Dataset, queries: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for link, load in data.conditions:
        yield queries[(queries["link"] == link) & (queries["load"] == load)]


def _section(
    data: Dataset, queries: pd.DataFrame, judged: pd.DataFrame, link: str, load: str
) -> Section:
    rows, afterwards = (
        frame[(frame["link"] == link) & (frame["load"] == load)] for frame in (queries, judged)
    )
    key = f"{link}.{load}"
    return Section(
        title=condition_name(link, load),
        key=key,
        link=link,
        load=load,
        answer=answer(data, rows, link, load),
        tables=condition_tables(data, rows, afterwards),
        drawings=list(_drawings(data, rows, afterwards, link, load, key)),
        plot=interactive_distribution(rows, palette(data)) if len(metrics.counted(rows)) else "",
    )


def _drawings(
    data: Dataset, rows: pd.DataFrame, judged: pd.DataFrame, link: str, load: str, key: str
) -> Iterator[Drawing]:
    done = metrics.counted(rows)
    if not len(done):
        return
    colours = palette(data)
    if len(devices_of(data)) > 1:
        yield Drawing(
            f"fleet.{key}",
            "Each device of the fleet",
            "Lines on top of each other are devices that fare alike; the further apart, the less "
            "fair a policy is.",
            draw_fleet(rows),
        )
    # One trial is shown: the first that has a result, so that every row meets the same trace.
    trial = int(done["trial"].min())
    runs = [r for r in data.runs if (r.link, r.load, r.trial) == (link, load, trial)]
    yield Drawing(
        f"timeline.{key}",
        "The trace, and what each policy made of it",
        f"Trial {trial}: where the rate set falls, latencies that cross the link rise; the band "
        "below them shows the split chosen, the thin one above it the best by the rates set and "
        "the load that was.",
        draw_timeline(data, rows, judged, runs, colours),
    )
    yield Drawing(
        f"distribution.{key}",
        "Distribution of latency",
        "Further left is faster; a long flat tail to the right is what the slow moments of the "
        "link cost.",
        draw_distribution(rows, colours),
        in_page=False,
    )
    yield Drawing(
        f"parts.{key}",
        "Where the time goes",
        "Brown is spent on the device, grey on the network, teal on the server; what lies right of "
        "the floor's tick is overhead.",
        draw_parts(rows),
    )
    if len(predicted(rows)):
        yield Drawing(
            f"prediction.{key}",
            "Predicted against measured, estimated against set",
            "Points on the line were right; above it, the query took longer than predicted, or the "
            "link was taken for faster than it was.",
            draw_prediction(rows, colours),
        )


def _link_drawings(data: Dataset) -> list[Drawing]:
    if not len(data.changes.dropna(subset=["late_ns"])):
        return []
    caption = "The further left, the more exactly the trace was replayed; all runs together."
    figure = draw_lateness(data.changes)
    data_file = "records/changes.parquet"
    return [Drawing("lateness", "Lateness of the rate changes", caption, figure, data_file)]


def _save_all(drawings: list[Drawing], folder: Path) -> dict[str, str]:
    """Each figure's source in the page: inline while the page stays small, then the file."""
    images, spent = {}, 0
    for drawing in drawings:
        mime, data = save(drawing, folder / "figures")
        if not drawing.in_page:
            continue
        coded = base64.b64encode(data).decode()
        spent += len(coded)
        inline = spent <= _INLINE_BYTES
        images[drawing.name] = (
            f"data:{mime};base64,{coded}" if inline else f"figures/{drawing.name}.png"
        )
    return images


def _flat(document: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(document, dict):
        for key, value in document.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(document, list):
        yield path, ", ".join(str(item) for item in document)
    elif document is not None:
        yield path, number(document) if isinstance(document, float) else str(document)


def _render(
    data: Dataset,
    sections: list[Section],
    tables: list[Table],
    shared: list[Drawing],
    images: dict[str, str],
    summary: dict[str, Any],
) -> str:
    environment = Environment(
        loader=PackageLoader("analysis", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    hosts = {
        host: [pair for pair in _flat(found) if pair[0] != "schema_version"]
        for host, found in data.environments.items()
    }
    resolved = json.dumps(data.experiment, indent=1) if data.experiment else ""
    return environment.get_template("report.html.j2").render(
        name=data.name,
        description=str(data.experiment.get("description", "")),
        campaign=data.root.name,
        summary=summary,
        states=_states(data),
        sections=sections,
        tables=tables,
        shared=shared,
        images=images,
        hosts=hosts,
        resolved=resolved,
        archive=str(data.campaign.get("archive_sha256", ""))[:12],
        version=testbed.__version__,
        source=data.environments.get("orchestrator", {}).get("source", {"revision": None}),
        commands=_commands(data),
        script=resources.files("analysis").joinpath("report.js").read_text(),
    )


def _commands(data: Dataset) -> list[str]:
    """What was typed, as far as the campaign knows, and what makes the rest again."""
    files = data.campaign.get("files", {})
    place = f"CAMPAIGN/{data.root.name}" if not data.campaign else data.root.name
    run = f"testbed run {files.get('experiment', 'EXPERIMENT.yaml')}"
    inventory = files.get("inventory", "INVENTORY.yaml")
    return [
        f"{run} -i {inventory}",
        f"testbed reproduce {place} -i {inventory}   # from this folder alone, then compared",
        f"testbed report {place}                     # only this page, from the records",
        f"testbed verify {place}                     # is the folder as it was written?",
    ]


def _states(data: Dataset) -> str:
    complete = sum(run.state == "complete" for run in data.runs)
    valid = sum(run.validity == "valid" for run in data.runs)
    return f"{len(data.runs)} runs, {complete} complete, {valid} valid"
