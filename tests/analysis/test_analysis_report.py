"""The report: whole, the same each time, honest about what is missing."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from analysis import metrics
from analysis.audit import PROOFS
from analysis.dataset import load_dataset
from analysis.figures.marks import log_marks
from analysis.figures.style import CONTRAST, legible, luminance
from analysis.formats import number, percent, ranged
from analysis.interactive import interactive_distribution
from analysis.replay import with_floor
from analysis.report import write_report
from analysis.trust import doubts
from tests.analysis.synthetic import Maker, Synthetic


def _text(page: Path) -> str:
    parts = r"<style>.*?</style>|<script>.*?</script>|data:image[^\"]*"
    html = re.sub(parts, "", page.read_text(), flags=re.S)
    return re.sub(r"<[^>]+>", " ", html)


def _summary(page: Path) -> dict[str, Any]:
    return json.loads((page.parent / "summary.json").read_text())


def _doubts(root: Path) -> str:
    data = load_dataset(root)
    queries = with_floor(data)
    transfers = metrics.transfers(queries, data.base_network_ns).assign(link="wander")
    return " ".join(doubt.text for doubt in doubts(data, queries, transfers))


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.rglob("*"))
        if f.is_file()
    }


@pytest.fixture(scope="module")
def page(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(golden, tmp_path_factory.mktemp("report"))


def test_page_is_self_contained_and_small(page: Path) -> None:
    html = page.read_text()
    assert page.stat().st_size < 3_000_000
    assert not re.search(r"src=\"(?!data:)", html)
    assert not re.search(r"href=\"(https?:)?//", html)
    assert html.count("<img ") == 4
    assert html.count("<polyline ") == 6
    for link in re.findall(r"href=\"([^#\"]+)\"", html):
        assert (page.parent / link).is_file(), link
    for anchor in re.findall(r"href=\"#([^\"]+)\"", html):
        assert html.count(f'id="{anchor}"') == 1


def test_page_shows_no_missing_value_and_no_long_number(page: Path) -> None:
    text = _text(page)
    assert not re.search(r"\b(nan|NaN|None|null|inf)\b", text.rpartition("Run it again")[0])
    figures = text.rpartition("What each host was")[0]
    shown = re.findall(r"\d+\.\d+", figures)
    assert all(len(figure.replace(".", "").lstrip("0")) <= 3 for figure in shown), shown


def test_every_figure_and_table_is_in_the_contents_and_has_its_data(page: Path) -> None:
    html = page.read_text()
    contents = html[html.index("<nav") : html.index("</nav>")]
    shown = re.findall(r'<(?:figure|h3) id="([^"]+)"', html)
    assert len(shown) > 20
    assert [anchor for anchor in shown if f'href="#{anchor}"' not in contents] == []
    for figure in re.findall(r'<figure id="([^"]+)"', html):
        caption = html[html.index(f'<figure id="{figure}"') :].split("<figcaption>")[1]
        assert re.match(r"[A-Z][^<]{20,}\.", caption), figure
        assert len(pd.read_csv(page.parent / "figures" / f"{figure}.csv")) > 1


def test_hosts_are_told_with_units_at_the_start_and_at_the_end(page: Path) -> None:
    rows = {row["fact"]: row for row in _summary(page)["tables"]["environment"]}
    assert (rows["celsius"]["device"], rows["celsius"]["device at the end"]) == (41.0, 44.5)
    assert rows["celsius"]["unit"] == "°C"
    assert (rows["memory"]["server"], rows["memory"]["unit"]) == (8.0, "GB")
    assert rows["busy"]["router"] == pytest.approx(3.1)
    assert "governor" not in rows  # no host tells one
    text = " ".join(_text(page).split())
    assert "temperature, °C 41 → 44.5" in text
    assert "frequency, GHz 2.01" in text


def test_page_begins_with_trust_then_the_answer(page: Path) -> None:
    text = _text(page)
    assert text.index("Nothing speaks against") < text.index("dynamic took")
    assert text.index("dynamic took") < text.index("Latency of each policy")


def test_the_report_is_there_as_markdown_and_parquet_too(page: Path) -> None:
    text = (page.parent / "report.md").read_text()
    assert text.startswith("# synthetic\n\nVALID\n")
    assert _summary(page)["answer"] in text
    for figure in re.findall(r"\]\((figures/[^)]*)\)", text):
        assert (page.parent / figure).is_file()
    frame = pd.read_parquet(page.parent / "records" / "queries.parquet")
    assert set(frame["policy"]) == set(golden_policies())


def golden_policies() -> tuple[str, ...]:
    return Synthetic().policies


def test_summary_and_csv_hold_the_same_numbers(page: Path) -> None:
    tables = _summary(page)["tables"]
    assert {f.stem for f in (page.parent / "tables").glob("*.csv")} == set(tables)
    for name, rows in tables.items():
        with (page.parent / "tables" / f"{name}.csv").open() as stream:
            read = list(csv.DictReader(stream))
        assert len(read) == len(rows) > 0
        for line, row in zip(read, rows, strict=True):
            for key, value in row.items():
                if value is None:
                    assert line[key] == ""
                elif isinstance(value, str | bool):
                    assert line[key] == str(value)
                else:
                    assert float(line[key]) == value


def test_written_again_it_is_the_same_to_the_byte_and_records_are_not_touched(
    make_campaign: Maker,
) -> None:
    root = make_campaign(policies=("dynamic",), duration_s=2)
    before = _hashes(root)
    page = write_report(root)
    assert page == root / "report" / "report.html"
    once = _hashes(root)
    write_report(root)
    assert _hashes(root) == once
    assert {k: v for k, v in once.items() if not k.startswith("report/")} == before


def test_many_conditions_each_have_their_answer(make_campaign: Maker) -> None:
    root = make_campaign(
        policies=("static:5", "dynamic"),
        links=("slow", "fast"),
        trials=2,
        duration_s=2,
    )
    summary = _summary(write_report(root))
    assert set(summary["answers"]) == {"slow.none", "fast.none"}
    assert "Over 2 conditions" in summary["answer"]
    assert "n = 4 pairs by condition and trial" in summary["answer"]
    assert len(summary["tables"]["latency"]) == 4
    assert (root / "report" / "figures" / "timeline.fast.none.pdf").is_file()


def test_interrupted_campaign_says_so_first(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local", "offload", "dynamic"), duration_s=2)
    state = json.loads((root / "campaign.json").read_text())
    (root / "campaign.json").write_text(json.dumps({**state, "state": "interrupted"}))
    (lost,) = root.glob("*.dynamic.*")
    for file in lost.iterdir():
        file.unlink()
    (cut,) = root.glob("*.offload.*")
    (cut / "manifest.json").unlink()
    (root / "profile.json").unlink()
    doubts = _doubts(root)
    assert "The campaign did not end as planned: it is interrupted." in doubts
    assert "1 of 3 planned runs were never begun" in doubts
    assert f"{cut.name} is interrupted: it has no manifest" in doubts
    assert "There is no profile" in doubts


def test_a_backlog_that_grew_is_told(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local", "offload"), duration_s=2)
    for name, left in (("local", 30), ("offload", 2)):
        (run,) = root.glob(f"*.{name}.*")
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["device"] |= {"arrived": 50, "backlog_end": left, "backlog_most": 31}
        (run / "manifest.json").write_text(json.dumps(manifest))
    doubts = _doubts(root)
    assert "local.t0.abc123: the backlog grew: 25 queries a second fell due and 10 were" in doubts
    assert doubts.count("backlog") == 1


def test_degraded_altered_and_failed_are_told(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local", "offload"), duration_s=2)
    (run,) = root.glob("*.offload.*")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest |= {"validity": "degraded", "reasons": ["link: rate changes came late"]}
    (run / "manifest.json").write_text(json.dumps(manifest))
    queries = run / "queries.jsonl"
    lines = [json.loads(line) for line in queries.read_text().splitlines()]
    lines[-1]["status"] = "failed"
    queries.write_text("".join(json.dumps(line) + "\n" for line in lines))
    verify = root / "verify.json"
    verify.write_text(verify.read_text().replace('"top1": true', '"top1": false', 1))
    doubts = _doubts(root)
    assert "is degraded: link: rate changes came late" in doubts
    assert "changed since the run wrote it: queries.jsonl" in doubts
    assert f"1 of {len(lines) - 5} queries failed" in doubts
    assert "does not give the whole model's result" in doubts


def test_link_that_does_not_keep_the_set_rate_is_told(make_campaign: Maker) -> None:
    root = make_campaign(policies=("offload",), steps=((0, 8_000_000),), duration_s=4)
    (run,) = root.glob("*.offload.*")
    text = (run / "link.jsonl").read_text()
    (run / "link.jsonl").write_text(text.replace('"rate_bps":8000000', '"rate_bps":10000000'))
    doubts = _doubts(root)
    assert re.search(r"offload: the median transfer took 2\d% more than the set rates", doubts)


def test_run_without_a_query_is_reported(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local", "offload"), duration_s=2)
    for run in root.glob("*.t0.*"):
        (run / "queries.jsonl").write_text("")
    summary = _summary(write_report(root))
    assert summary["answer"] == "On link wander, nothing was measured."
    assert [row["queries"] for row in summary["tables"]["runs"]] == [0, 0]


def test_single_interrupted_run_is_reported_beside_its_folder(make_campaign: Maker) -> None:
    root = make_campaign(policies=("static:3",), duration_s=2)
    (run,) = root.glob("*.static-3.*")
    (run / "manifest.json").unlink()
    before = _hashes(run)
    page = write_report(run)
    assert page.parent == root / f"report.{run.name}"
    assert _hashes(run) == before
    text = _text(page)
    assert text.index("it has no manifest") < text.index("ms on average")


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        (79.91, 80.12, [79.95, 80, 80.05, 80.1]),
        (101, 109, list(range(101, 110))),
        (5.1, 41, [7, 10, 15, 20, 30]),
        (30, 2000, [50, 100, 200, 500, 1000, 2000]),
        (1, 1e13, [10.0**n for n in range(0, 13, 2)]),
    ],
)
def test_a_logarithmic_axis_has_marks_however_short(
    low: float, high: float, marks: list[float]
) -> None:
    assert log_marks(low, high) == pytest.approx(marks)


def test_a_small_panels_logarithmic_axis_is_marked_over_all_its_height() -> None:
    assert log_marks(0.06, 3, 3) == pytest.approx([0.1, 0.3, 1, 3])
    assert log_marks(0.05, 20, 3) == pytest.approx([0.1, 1, 10])


def test_latencies_close_together_have_marks_to_read_them_by() -> None:
    queries = pd.DataFrame({"policy": "local", "e2e_ns": np.linspace(101e6, 103e6, 9)})
    queries = queries.assign(kind="measured", status="ok")
    plot = interactive_distribution(queries, {"local": "#000000"})
    assert len(re.findall(r"<text [^>]*>10[123][.\d]*</text>", plot)) >= 3


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (83.149, "83.1"),
        (1234.5, "1230"),
        (0.999988, "1.00"),
        (0, "0"),
        (-0.0001234, "−0.000123"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_numbers_have_three_significant_digits(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_percentages_and_ranges_read_as_people_write_them() -> None:
    assert [percent(x) for x in (0.123, 0.0721, -0.5, 0)] == [
        "12\u00a0%",
        "7.2\u00a0%",
        "−50\u00a0%",
        "0\u00a0%",
    ]
    assert ranged(83.149, 79.96, 101.2) == ("83.1", "[80.0, 101]")


@pytest.mark.parametrize("name", PROOFS)
def test_a_proof_that_is_gone_or_edited_is_told(make_campaign: Maker, name: str) -> None:
    root = make_campaign(policies=("local", "offload"), duration_s=2)
    assert "own files" not in _doubts(root)
    if name != "manifest.json":  # nothing vouches for it
        whole = (root / name).read_text()
        (root / name).write_text(whole.replace("\n", " \n", 1))
        assert f"{name}: changed since it was written" in _doubts(root)
    (root / name).unlink()
    assert f"{name}: missing" in _doubts(root)


@pytest.mark.parametrize("colour", ["#E69F00", "#56B4E9", "#000000", "#D55E00"])
def test_words_in_a_figure_are_dark_enough_to_read(colour: str) -> None:
    shown = legible(colour)
    assert 1.05 / (luminance(*to_rgb(shown)) + 0.05) >= CONTRAST
    already = 1.05 / (luminance(*to_rgb(colour)) + 0.05) >= CONTRAST
    assert (shown == colour.lower()) == already
