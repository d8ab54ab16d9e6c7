"""Reading campaigns: versions, cut lines, missing manifests, altered files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.dataset import load_dataset
from testbed.errors import UserError
from tests.analysis.synthetic import Maker


def _run(root: Path, policy: str) -> Path:
    (folder,) = root.glob(f"*.{policy}.*")
    return folder


@pytest.mark.parametrize("name", ["campaign.json", "profile.json", "local/plan.json"])
def test_newer_schema_is_refused_with_the_remedy(make_campaign: Maker, name: str) -> None:
    root = make_campaign(policies=("local",), duration_s=1)
    file = _run(root, "local") / "plan.json" if "/" in name else root / name
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema_version": 2}))
    with pytest.raises(UserError, match=r"schema_version: this release reads up to 1, got 2; use"):
        load_dataset(root)


def test_cut_last_line_is_left_out_and_counted(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local",), duration_s=2)
    file = _run(root, "local") / "queries.jsonl"
    whole = len(load_dataset(root).queries)
    file.write_text(file.read_text()[:-40])
    data = load_dataset(root)
    assert len(data.queries) == whole - 1
    assert data.runs[0].lines_lost == 1
    assert data.runs[0].altered == ("queries.jsonl",)


def test_damage_before_the_last_line_is_refused_with_its_place(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local",), duration_s=2)
    file = _run(root, "local") / "queries.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    lines[2] = lines[2][:30] + "\n"
    file.write_text("".join(lines))
    with pytest.raises(UserError, match=r"queries\.jsonl:3: expected one JSON object a line"):
        load_dataset(root)


def test_run_without_a_manifest_is_interrupted_and_read(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local", "offload"), duration_s=2)
    (_run(root, "offload") / "manifest.json").unlink()
    data = load_dataset(root)
    states = {run.policy: (run.state, run.validity) for run in data.runs}
    assert states == {"local": ("complete", "valid"), "offload": ("interrupted", "unverified")}
    rows = data.queries[(data.queries["policy"] == "offload") & (data.queries["kind"] != "warmup")]
    assert rows["t_s"].min() == 0
    assert data.changes["t_s"].notna().all()


def test_single_run_folder_is_read_alone(golden: Path) -> None:
    data = load_dataset(_run(golden, "static-3"))
    assert [run.policy for run in data.runs] == ["static:3"]
    assert data.profile is not None


def test_profile_run_is_no_run_of_the_experiment(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local", "offload"), duration_s=1)
    _run(root, "local").rename(root / "profile")
    assert [run.policy for run in load_dataset(root).runs] == ["offload"]


def test_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a campaign folder"):
        load_dataset(tmp_path)


def test_axis_without_clocks_counts_each_role_from_its_own_start(make_campaign: Maker) -> None:
    root = make_campaign(policies=("offload",), duration_s=2)
    (_run(root, "offload") / "clock.json").unlink()
    data = load_dataset(root)
    assert not data.runs[0].axis.shared
    assert data.changes["t_s"].min() == pytest.approx(0, abs=1e-9)
    assert data.queries["reply_ns"].isna().all()


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("plan.json", "index", None),
        ("plan.json", "trial", "x"),
        ("plan.json", "schedules", []),
        ("manifest.json", "checksums", None),
        ("manifest.json", "t0_ns", 7),
        ("clock.json", "hosts", []),
        ("clock.json", "hosts", {"x": 7}),
        ("../experiment.resolved.json", "experiment", 7),
    ],
)
def test_a_value_of_another_type_is_told_with_its_file(
    make_campaign: Maker, file: str, key: str, value: object
) -> None:
    root = make_campaign(policies=("local",), duration_s=2)
    (plan,) = root.glob("*/plan.json")
    path = plan.parent / file
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    told = "x" if isinstance(value, dict) else key
    with pytest.raises(UserError, match=rf"{path.name}: {told}: expected (str|int|list|dict), got"):
        load_dataset(root)
