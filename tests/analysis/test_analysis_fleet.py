"""The fleet's figures: fairness, each device apart, and nothing for one device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.dataset import Dataset, load_dataset
from analysis.figures.fleet import draw_fleet
from analysis.fleet import devices_of, fairness, fleet_tables, jain_index, per_device
from analysis.replay import with_floor


@pytest.fixture
def fleet(golden: Path) -> Dataset:
    """The golden campaign with a second device that takes twice as long."""
    data = load_dataset(golden)
    slow = data.queries.assign(device="late", e2e_ns=data.queries["e2e_ns"] * 2)
    return replace(data, queries=pd.concat([data.queries, slow], ignore_index=True))


def test_each_device_meets_its_own_link(fleet: Dataset) -> None:
    slow = {"changes": [[0, 1_000_000]], "end": "hold", "duration_ns": 10**9}
    runs = tuple(
        replace(
            run,
            behind={"device": "", "late": "-far"},
            schedules={**run.schedules, "uplink-far": slow, "downlink-far": slow},
        )
        for run in fleet.runs
    )
    found = with_floor(replace(fleet, runs=runs))
    alike = with_floor(fleet)
    late = (found["device"] == "late").to_numpy()
    assert set(found["up_bps"][late]) == {1e6}
    assert (found["up_bps"][~late] == alike["up_bps"][~late]).all()
    crossed = late & (found["bytes_up"] > 100_000).to_numpy()
    assert (found["floor_ns"][crossed] > alike["floor_ns"][crossed]).all()
    assert crossed.any()
    (_, devices) = fleet_tables(replace(fleet, runs=runs), fleet.queries)
    assert {row["direction"] for row in devices.frame.to_dict("records")} == {
        "uplink",
        "uplink-far",
    }


def test_jains_index_has_its_known_values() -> None:
    assert jain_index(np.array([3.0, 3.0, 3.0])) == 1
    assert jain_index(np.array([5.0, 0.0, 0.0, 0.0])) == 0.25
    assert np.isnan(jain_index(np.array([])))


def test_each_device_is_told_apart(fleet: Dataset) -> None:
    assert devices_of(fleet) == ["device", "late"]
    each = per_device(fleet, fleet.queries)
    for _, rows in each.groupby("policy"):
        first, second = rows.sort_values("device").to_dict("records")
        assert second["mean_ms"] == pytest.approx(2 * first["mean_ms"])
        assert second["n"] == first["n"]
        assert second["mean_ms_low"] < second["mean_ms"] < second["mean_ms_high"]


def test_fairness_and_the_servers_part(fleet: Dataset) -> None:
    rows = fairness(fleet, fleet.queries).set_index("policy")
    # Two devices, one twice as slow as the other: (1 + 2)² / (2 · (1 + 4)).
    assert rows["fairness_of_latency"].to_numpy() == pytest.approx(0.9)
    assert rows["fairness_of_rates"].to_numpy() == pytest.approx(1.0)
    assert rows.loc["local", "server_share"] == 0
    assert 0 < rows.loc["offload", "server_share"] < 2
    assert set(rows["devices"]) == {2}


def test_a_fleet_is_shown_and_one_device_is_not(fleet: Dataset, golden: Path) -> None:
    assert [table.name for table in fleet_tables(fleet, fleet.queries)] == [
        "fleet",
        "fleet_devices",
    ]
    one = load_dataset(golden)
    assert fleet_tables(one, one.queries) == []
    panels = draw_fleet(fleet.queries).axes
    shown = [axes for axes in panels if axes.axison]
    assert len(shown) == fleet.queries["policy"].nunique()
    assert all(len(axes.get_lines()) == 2 for axes in shown)
