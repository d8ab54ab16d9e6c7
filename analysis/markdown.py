"""The report as Markdown, for a repository or a paper's appendix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from analysis.figures.style import Drawing
from analysis.formats import Cell
from analysis.summary import Section
from analysis.tables import Table


def markdown(
    name: str,
    summary: dict[str, Any],
    sections: list[Section],
    tables: list[Table],
    shared: list[Drawing],
) -> str:
    """Verdict, notes, answer, every table, and a link to every figure and its data."""
    reasons = summary["verdict"]["reasons"]
    verdict = "VALID" if summary["verdict"]["trusted"] else "NOT TO BE TRUSTED:"
    lines = [f"# {name}", "", verdict, "", *(f"- {reason}" for reason in reasons), ""]
    if notes := summary["doubts"][len(reasons) :]:
        lines += ["To bear in mind:", "", *(f"- {note}" for note in notes), ""]
    lines += [summary["answer"], ""]
    for section in sections:
        lines += [f"## {section.heading}", ""]
        if len(sections) > 1:
            lines += [section.answer, ""]
        lines += _shown(section.tables, section.drawings)
    return "\n".join([*lines, "## The whole campaign", "", *_shown(tables, shared)])


def _shown(tables: list[Table], drawings: list[Drawing]) -> Iterator[str]:
    for drawing in drawings:
        path = f"figures/{drawing.name}"
        yield from (f"### {drawing.title}", "", f"![{drawing.title}]({path}.png)", "")
        yield from (f"{drawing.caption} [CSV]({path}.csv), [PDF]({path}.pdf)", "")
    for table in tables:
        yield from table_lines(table)


def table_lines(table: Table) -> list[str]:
    """A table under its title, with its note."""
    rows = [[_cell(cell) for cell in row] for row in table.cells]
    head = [f"| {' | '.join(table.header)} |", "|---" * len(table.header) + "|"]
    body = [f"| {' | '.join(row)} |" for row in rows]
    return [f"### {table.title}", "", table.note, "", *head, *body, ""]


def _cell(cell: Cell) -> str:
    return f"{cell.text} {cell.aside}".strip().replace("|", "\\|")
