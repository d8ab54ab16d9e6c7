"""What a comparison found, as a page and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count, islice, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pandas as pd

from analysis.answer import condition_name
from analysis.documents import Document
from analysis.environment import FACTS, shown
from analysis.figures.compare import draw_comparison
from analysis.figures.gallery import Gallery
from analysis.figures.press import Press
from analysis.figures.style import Drawing, style
from analysis.formats import percent
from analysis.markdown import table_lines
from analysis.page import Entry, render
from analysis.policies import policy_label
from analysis.tables import Column, Row, Table, num, share_range, text

Environments = Sequence[Mapping[str, Document]]


def write_pages(
    frame: pd.DataFrame,
    forced: list[str],
    told: list[dict[str, Any]],
    environments: Environments,
    colours: Mapping[str, str],
    out: Path,
) -> None:
    """Write ``comparison.{html,md,csv,pdf,png}`` into a folder.

    Args:
        frame: the differences (:func:`analysis.compare.differences`), each with the letter of its
            ``campaign``, which was compared with A.
        forced: why the campaigns are not comparable; empty where they are.
        told: each campaign's name and what it was made with.
        environments: of each campaign, every host's document.
        colours: of each policy, as the first campaign's report has them.
        out: the folder.
    """
    caption = (
        "Right of zero the campaign took longer than A; where the line crosses zero the difference "
        "may be chance."
    )
    with style(), Press() as press:
        gallery = Gallery(press)
        drawing = Drawing(
            "comparison", "How far apart", caption, draw_comparison(frame, colours), frame
        )
        gallery.hang([drawing])
        image = gallery.save(out)[drawing.name]
    tables = [_differences(frame), _campaigns(told), *_apart(environments)]
    for table in tables:
        if table.name != drawing.name:
            table.frame.to_csv(out / f"{table.name}.csv", index=False)
    called = letters(len(told))
    names = [f"{letter}: {each['name']}" for letter, each in zip(called, told, strict=True)]
    links = [(f"table.{table.name}", table.title) for table in tables]
    index = [
        Entry(
            "differences",
            "Differences",
            ((drawing.name, drawing.title),),
            (links[0],),
        ),
        Entry("campaigns", "The campaigns", (), tuple(links[1:])),
    ]
    page = render(
        "compare.html.j2",
        names=names,
        forced=forced,
        answer=answer(frame),
        index=index,
        drawing=drawing,
        image=image,
        tables=tables,
    )
    (out / "comparison.html").write_text(page)
    lines = ["# Comparison", "", *(f"- {name}" for name in names), ""]
    lines += [*(f"**FORCED, not comparable: {line}**\n" for line in forced)]
    lines += [answer(frame), "", f"![{drawing.title}](comparison.png)", "", caption, ""]
    lines += [line for table in tables for line in table_lines(table)]
    (out / "comparison.md").write_text("\n".join(lines))


def letters(campaigns: int) -> list[str]:
    """What each campaign is called: A to Z, then AA, AB and so on."""
    called = ("".join(each) for n in count(1) for each in product(ascii_uppercase, repeat=n))
    return list(islice(called, campaigns))


def answer(frame: pd.DataFrame) -> str:
    """How many differences are beyond chance, and the largest of them."""
    known = frame.dropna(subset=["difference_low", "difference_high"])
    beyond = known[(known["difference_low"] > 0) | (known["difference_high"] < 0)]
    told = (
        f"{len(beyond)} of {len(frame)} differences are beyond chance (the 95 % interval leaves "
        "out 0)"
    )
    if not len(beyond):
        return f"{told}."
    row = max(beyond.to_dict("records"), key=lambda row: abs(row["difference"]))
    way = "more" if row["difference"] > 0 else "less"
    return (
        f"{told}; the largest: {policy_label(row['policy'])} on "
        f"{condition_name(row['link'], row['load'])} took "
        f"{percent(abs(row['difference']))} {way} in {row['campaign']} than in A."
    )


def _differences(frame: pd.DataFrame) -> Table:
    several = frame["campaign"].nunique() > 1
    between: tuple[Column, ...] = (("campaign", text("campaign")),) if several else ()
    return Table(
        "comparison",
        "Mean latencies",
        "Over the same moments of the trace; positive: it took longer than A.",
        frame,
        (
            ("link", text("link")),
            ("load", text("load")),
            ("policy", lambda row: policy_label(row["policy"])),
            *between,
            ("A ms", num("mean_a_ms")),
            (f"{'its' if several else 'B'} ms", num("mean_b_ms")),
            (f"{'it' if several else 'B'} takes more", share_range("difference")),
        ),
        style="words",
    )


def _campaigns(told: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        {
            "letter": letter,
            **{key: campaign[key] for key in ("name", "model", "runs", "valid")},
            "revision": campaign["revision"] or "unknown",
            "hosts": "; ".join(f"{h}: {cpu}" for h, cpu in campaign["hosts"].items() if cpu),
        }
        for letter, campaign in zip(letters(len(told)), told, strict=True)
    ]
    return Table(
        "campaigns",
        "What was compared",
        "Model, hosts and source may differ.",
        pd.DataFrame(rows),
        (
            ("campaign", lambda row: f"{row['letter']}: {row['name']}"),
            ("model", text("model")),
            ("runs", text("runs")),
            ("of them valid", text("valid")),
            ("source revision", lambda row: row["revision"][:12]),
            ("CPUs", text("hosts")),
        ),
        style="facts",
    )


def _apart(environments: Environments) -> list[Table]:
    """Facts that are not the same in every campaign, of hosts that bear the same name."""
    names = letters(len(environments))
    hosts = dict.fromkeys(host for found in environments for host in found)
    rows = []
    for host in hosts:
        for key, fact in FACTS.items():
            values = [fact.read(found.get(host, {})) for found in environments]
            if not fact.moves and len({v for v in values if v is not None}) > 1:
                place = {"host": host, "fact": key, "title": fact.titled}
                rows.append({**place, **dict(zip(names, values, strict=True))})
    if not rows:
        return []
    columns: list[Column] = [("host", text("host")), ("fact", text("title"))]
    columns += [(name, _fact(name)) for name in names]
    return [
        Table(
            "apart",
            "What was not the same",
            "Of hosts that bear the same name; what always moves (temperature, free memory) apart.",
            pd.DataFrame(rows),
            tuple(columns),
            style="facts",
        )
    ]


def _fact(campaign: str) -> Callable[[Row], str]:
    return lambda row: shown(row[campaign])
