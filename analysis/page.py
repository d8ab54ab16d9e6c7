"""The HTML pages: one file each, without the network, in one look."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import testbed
from analysis.dataset import Dataset
from analysis.figures.style import Drawing
from analysis.summary import Section
from analysis.tables import Table

Link = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """One section in the page of contents: anchor and title of it, its figures and its tables."""

    key: str
    title: str
    figures: tuple[Link, ...] = ()
    tables: tuple[Link, ...] = ()


def render(template: str, **fields: Any) -> str:
    """A page of one of this package's templates."""
    environment = Environment(
        loader=PackageLoader("analysis", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=testbed.__version__, **fields)


def report_page(
    data: Dataset,
    sections: list[Section],
    tables: list[Table],
    shared: list[Drawing],
    images: dict[str, str],
    summary: dict[str, Any],
) -> str:
    """The report of a campaign."""
    return render(
        "report.html.j2",
        name=data.name,
        description=str(data.experiment.get("description", "")),
        campaign=data.root.name,
        summary=summary,
        states=_states(data),
        index=_index(sections, tables, shared),
        sections=sections,
        tables=tables,
        shared=shared,
        images=images,
        resolved=json.dumps(data.experiment, indent=1) if data.experiment else "",
        archive=str(data.campaign.get("archive_sha256", ""))[:12],
        source=data.environments.get("orchestrator", {}).get("source", {"revision": None}),
        commands=_commands(data),
    )


def _index(sections: list[Section], tables: list[Table], shared: list[Drawing]) -> list[Entry]:
    """What the page of contents names, in the page's order."""
    entries = [
        Entry(
            section.key,
            section.heading,
            tuple((drawing.name, drawing.title) for drawing in section.drawings),
            tuple((f"{section.key}.{table.name}", table.title) for table in section.tables),
        )
        for section in sections
    ]
    figures = tuple((drawing.name, drawing.title) for drawing in shared)
    whole = tuple((table.name, table.title) for table in tables)
    campaign = Entry("campaign", "The whole campaign", figures, whole)
    return [*entries, campaign, Entry("again", "Run it again")]


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
