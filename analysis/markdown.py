"""The report as Markdown, for a repository or a paper's appendix."""

from __future__ import annotations

from typing import Any

from analysis.formats import Cell
from analysis.summary import Section
from analysis.tables import Table


def markdown(
    name: str, summary: dict[str, Any], sections: list[Section], tables: list[Table]
) -> str:
    """Verdict, answer, every table and a link to every figure."""
    verdict = summary["verdict"]
    lines = [f"# {name}", "", "VALID" if verdict["trusted"] else "NOT TO BE TRUSTED:", ""]
    lines += [f"- {reason}" for reason in verdict["reasons"]]
    lines += ["", summary["answer"], ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for table in section.tables:
            lines += _table(table)
        for drawing in section.drawings:
            lines += [f"![{drawing.title}](figures/{drawing.name}.png)", "", drawing.caption, ""]
    lines += ["## Campaign", ""]
    for table in tables:
        lines += _table(table)
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    rows = [[_cell(cell) for cell in row] for row in table.cells]
    head = [f"| {' | '.join(table.header)} |", "|---" * len(table.header) + "|"]
    body = [f"| {' | '.join(row)} |" for row in rows]
    return [f"### {table.title}", "", table.note, "", *head, *body, ""]


def _cell(cell: Cell) -> str:
    return f"{cell.text} {cell.aside}".strip().replace("|", "\\|")
