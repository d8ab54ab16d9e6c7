"""Comparisons: what is not comparable is refused; known differences are found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from analysis.compare import compare, load, obstacles, reproduced
from analysis.compare_page import letters, write_pages
from testbed.errors import UserError
from tests.analysis.synthetic import Synthetic, write_campaign


def made(root: Path, **fields) -> Path:
    return write_campaign(root, Synthetic(policies=("local", "offload"), duration_s=4, **fields))


def test_a_known_difference_is_found_with_its_interval(tmp_path: Path) -> None:
    a = made(tmp_path / "a", fixed_ms={"offload": 100.0})
    b = made(tmp_path / "b", fixed_ms={"offload": 120.0})
    found = compare([a, b], tmp_path / "out", force=False)
    (row,) = [r for r in found["differences"] if r["policy"] == "offload"]
    assert row["difference"] == pytest.approx(0.2)
    assert row["difference_low"] - 1e-9 <= 0.2 <= row["difference_high"] + 1e-9
    (same,) = [r for r in found["differences"] if r["policy"] == "local"]
    assert same["difference"] == 0
    for ending in ("html", "md", "csv", "pdf", "png"):
        assert (tmp_path / "out" / f"comparison.{ending}").stat().st_size


def test_the_page_says_what_differs_and_what_was_not_the_same(tmp_path: Path) -> None:
    a = made(tmp_path / "a", fixed_ms={"offload": 100.0})
    b = made(tmp_path / "b", fixed_ms={"offload": 120.0})
    for file in b.glob("*/environment.device.json"):
        changed = {"cpu_model": "Faster CPU", "celsius": 70.0}
        file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    compare([a, b], tmp_path / "out", force=True)
    html = (tmp_path / "out" / "comparison.html").read_text()
    text = " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.S).split())
    assert "Forced: these campaigns are not comparable" in text  # the files were changed
    assert "the largest: offload on link wander took 20 % more in B than in A." in (
        text.replace("\u00a0", " ")
    )
    assert "device CPU Example CPU Faster CPU" in text
    assert "temperature" not in text.partition("What was not the same")[2].partition("apart.")[2]
    assert not re.search(r"src=\"(?!data:)|href=\"(https?:)?//", html)
    for link in re.findall(r"href=\"([^#\"]+)\"", html):
        assert (tmp_path / "out" / link).is_file(), link
    for anchor in re.findall(r"href=\"#([^\"]+)\"", html):
        assert html.count(f'id="{anchor}"') == 1


def test_more_campaigns_than_letters(tmp_path: Path) -> None:
    assert letters(29)[::14] == ["A", "O", "AC"]
    difference = {"difference": 0.1, "difference_low": 0.0, "difference_high": 0.2}
    row = {"link": "l", "load": "none", "policy": "local", "campaign": "AB", **difference}
    frame = pd.DataFrame([{**row, "mean_a_ms": 100.0, "mean_b_ms": 110.0}])
    told = {"model": "tiny", "revision": None, "hosts": {}, "runs": 1, "valid": 1}
    campaigns = [{**told, "name": f"c{n}"} for n in range(28)]
    write_pages(frame, [], campaigns, [], {}, tmp_path)
    html = (tmp_path / "comparison.html").read_text()
    assert "Z: c25<br>AA: c26<br>AB: c27</p>" in html


def test_the_same_campaign_reproduces_itself(tmp_path: Path) -> None:
    a = load(made(tmp_path / "a"), "a")
    frame = reproduced(a, a)
    assert frame["a_in_b"].all()
    assert frame["b_in_a"].all()


def test_what_is_not_comparable_is_refused_or_labelled(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a"), made(tmp_path / "b", seed=2)
    with pytest.raises(UserError, match="link wander: the rates set over time are not the same"):
        compare([a, b], tmp_path / "out", force=False)
    assert compare([a, b], tmp_path / "out", force=True)["forced"]
    assert "FORCED" in (tmp_path / "out" / "comparison.md").read_text()
    assert "Forced: these" in (tmp_path / "out" / "comparison.html").read_text()
    assert "Comparable</h2>" not in (tmp_path / "out" / "comparison.html").read_text()


def test_another_batch_is_an_obstacle_and_a_newer_key_is_not(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a"), made(tmp_path / "b")
    path = b / "experiment.resolved.json"
    document = json.loads(path.read_text())
    document["experiment"]["encoding"]["newer"] = 1
    path.write_text(json.dumps(document))
    assert obstacles([load(a, "a"), load(b, "b")]) == []
    document["experiment"]["batch"] = 8
    path.write_text(json.dumps(document))
    assert obstacles([load(a, "a"), load(b, "b")]) == ["a and b: batch: 1 and 8"]


def test_a_campaign_that_is_not_whole_is_an_obstacle(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a"), made(tmp_path / "b")
    (run,) = b.glob("*.offload.*")
    lines = (run / "queries.jsonl").read_text().splitlines()
    (run / "queries.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(UserError, match=r"offload.*: is not as it was written"):
        compare([a, b], tmp_path / "out", force=False)
    (run / "manifest.json").unlink()
    assert obstacles([load(a, "a"), load(b, "b")]) == [f"b/{run.name}: is interrupted"]
    (other,) = b.glob("*.local.*")
    (other / "manifest.json").unlink()
    (told,) = obstacles([load(a, "a"), load(b, "b")])
    assert told == f"b/{min(run.name, other.name)}: is interrupted (and so 1 more)"
