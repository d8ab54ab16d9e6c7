"""Each thing that speaks against figures is told, with its numbers; what is fine is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import metrics
from analysis.dataset import load_dataset
from analysis.replay import with_floor
from analysis.trust import Doubt, doubts
from tests.analysis.synthetic import Maker


def told(root: Path) -> list[Doubt]:
    data = load_dataset(root)
    queries = with_floor(data)
    transfers = metrics.transfers(queries, data.base_network_ns).assign(link="wander")
    # The generator seals a run before a test breaks it.
    return [d for d in doubts(data, queries, transfers) if "changed since" not in d.text]


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def runs_of(root: Path) -> list[Path]:
    folders = [plan.parent for plan in root.glob("*/plan.json")]
    return sorted(
        folders, key=lambda folder: json.loads((folder / "plan.json").read_text())["index"]
    )


def slow_down(folder: Path, factor: float) -> None:
    path = folder / "queries.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record["e2e_ns"] = round(record["e2e_ns"] * factor)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_nothing_is_said_of_a_quiet_campaign(make_campaign: Maker) -> None:
    assert told(make_campaign(policies=("local", "offload"), trials=4, duration_s=3)) == []


def test_transfers_of_devices_that_share_a_link_may_take_longer_but_never_less(
    make_campaign: Maker,
) -> None:
    data = load_dataset(make_campaign(policies=("local", "offload"), duration_s=3))
    queries = with_floor(data)
    both = pd.concat([queries, queries.assign(device="other")])
    slow, fast = (
        metrics.transfers(queries, data.base_network_ns).assign(link="wander", median_ratio=ratio)
        for ratio in (1.5, 0.5)
    )

    def said(queries: pd.DataFrame, transfers: pd.DataFrame) -> list[str]:
        found = doubts(data, queries, transfers)
        return [d.text for d in found if "than the set rates" in d.text]

    assert len(said(queries, slow)) == len(said(queries, fast)) == len(said(both, fast)) == 1
    assert said(both, slow) == []


@pytest.mark.parametrize(
    ("fact", "values", "text"),
    [
        ("celsius", (41.0, 53.0), "device: runs began between 41 and 53 °C"),
        ("frequency_hz", (2e9, 2.3e9), "device: runs began with the CPU between 2.00 and 2.30 GHz"),
        ("busy_share", (0.1, 0.31), "device: others kept up to 31% of the CPU busy before 1 of 2"),
    ],
)
def test_a_host_that_drifts_between_runs(
    make_campaign: Maker, fact: str, values: tuple[float, float], text: str
) -> None:
    root = make_campaign(policies=("local", "offload"), duration_s=2)
    for folder, value in zip(runs_of(root), values, strict=True):
        edit(folder / "environment.device.json", **{fact: value})
    (doubt,) = told(root)
    assert text in doubt.text
    assert not doubt.grave


def test_runs_that_get_slower_and_slower(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local", "offload"), trials=6, duration_s=3)
    for number, folder in enumerate(runs_of(root)):
        slow_down(folder, 1 + 0.02 * number)
    (doubt,) = [d for d in told(root) if "drifted" in d.text]
    assert doubt.grave
    assert "Runs got slower in the order they were run (Spearman" in doubt.text
    assert "over 12 runs" in doubt.text


def test_too_few_queries_are_told_with_their_number(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local",), duration_s=1)
    (folder,) = runs_of(root)
    (doubt,) = [d for d in told(root) if "too few" in d.text]
    assert doubt.grave
    assert f"Fewer than 8 queries, too few for an interval, in {folder.name} (7)." in doubt.text


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"digest": False}, "the bytes received are not the bytes sent"),
        ({"top1": False, "max_abs": 0.25}, "another class wins (outputs differ by up to 0.25)"),
    ],
)
def test_a_split_that_is_not_the_whole(
    make_campaign: Maker, changed: dict[str, Any], text: str
) -> None:
    root = make_campaign(policies=("local",), duration_s=3)
    splits = json.loads((root / "verify.json").read_text())["splits"]
    splits["3"] |= changed
    edit(root / "verify.json", splits=splits)
    (doubt,) = told(root)
    assert doubt.grave
    assert f"Split 3 does not give the whole model's result over the wire: {text}." == doubt.text


def test_classes_that_a_coarse_encoding_changes_are_told_and_no_fault(
    make_campaign: Maker,
) -> None:
    root = make_campaign(policies=("local",), duration_s=3)
    resolved = json.loads((root / "experiment.resolved.json").read_text())["experiment"]
    resolved["encoding"] = {"input": "uint8", "features": "int8"}
    edit(root / "experiment.resolved.json", experiment=resolved)
    splits = json.loads((root / "verify.json").read_text())["splits"]
    splits["3"] |= {"top1": False, "top1_share": 0.75, "images": 48}
    edit(root / "verify.json", splits=splits)
    (doubt,) = told(root)
    assert doubt == ("Split 3, int8: 25.0% of 48 images change their class.", False)


def test_what_a_run_says_of_itself_is_a_reason(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local",), duration_s=3)
    (folder,) = runs_of(root)
    reasons = ["link: rate changes came up to 31.0 ms late (p99), more than 10% of a 100 ms step"]
    edit(folder / "manifest.json", validity="degraded", disturbed=True, reasons=reasons)
    (doubt,) = told(root)
    assert doubt.grave
    assert f"{folder.name} is degraded: {reasons[0]}." == doubt.text
