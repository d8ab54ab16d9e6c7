"""Queries that stand out are counted and named, and stay in every figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.dataset import load_dataset
from analysis.outliers import judged_apart, outlier_tables
from analysis.replay import with_floor
from analysis.report import write_report
from tests.analysis.synthetic import MS, Maker


def plant(root: Path, policy: str, added_ms: dict[int, int]) -> Path:
    """Make some of a policy's measured queries slower, or faster, than they were."""
    (folder,) = root.glob(f"*.{policy}.*")
    path = folder / "queries.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        for part in ("e2e_ns", "head_ns"):
            record[part] += added_ms.get(record["query"], 0) * MS
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_planted_outliers_are_found_named_and_kept(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local", "static:5", "dynamic"), duration_s=12)
    folder = plant(root, "local", {20: 400, 30: -120})
    page = write_report(root)
    tables = json.loads((page.parent / "summary.json").read_text())["tables"]
    rows = {row["policy"]: row for row in tables["outliers"]}
    assert (rows["local"]["slow"], rows["local"]["fast"]) == (1, 1)
    assert rows["local"]["warmup"] == 5
    assert rows["static:5"]["slow"] == rows["static:5"]["fast"] == 0
    latency = {row["policy"]: row for row in tables["latency"]}
    assert rows["local"]["n"] == latency["local"]["n"]
    assert rows["local"]["mean_ms"] == latency["local"]["mean_ms"]
    assert rows["local"]["mean_ms"] - rows["local"]["mean_without_ms"] > 1
    furthest = [row for row in tables["furthest"] if row["policy"] == "local"]
    assert [row["query"] for row in furthest] == [20, 30]
    assert furthest[0]["run_id"] == folder.name
    assert furthest[0]["mads"] > 5 > -5 > furthest[1]["mads"]


def test_a_slow_moment_of_the_link_is_no_outlier(make_campaign: Maker) -> None:
    steps = ((0, 20_000_000), (4_000_000_000, 2_000_000), (5_000_000_000, 20_000_000))
    root = make_campaign(policies=("offload",), steps=steps, duration_s=12)
    judged = judged_apart(with_floor(load_dataset(root)))
    assert judged["e2e_ns"].max() > 4 * judged["e2e_ns"].median()
    assert judged["mads"].abs().max() < 5


def test_a_warm_up_that_was_too_short_shows(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local",), duration_s=12)
    plant(root, "local", dict.fromkeys(range(5, 10), 80))
    (row,) = outlier_tables(with_floor(load_dataset(root)))[0].frame.to_dict("records")
    assert row["first_ratio"] == pytest.approx(1 + 80 / 165, rel=0.1)


def test_few_queries_or_all_alike_tell_nothing(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local",), duration_s=1)
    queries = with_floor(load_dataset(root))
    assert judged_apart(queries)["mads"].isna().tolist() == [True] * 7
    assert len(outlier_tables(queries)[1].frame) == 0
