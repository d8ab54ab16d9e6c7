"""Advice and the sweep's plan: rankings follow from the profile, cells from the seed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.cli import main
from testbed.config.experiment import Experiment
from testbed.errors import UserError
from testbed.orchestrator.advice import advice
from testbed.orchestrator.sweep import grid_rates, predict_all, profile_batches, sample_cells
from testbed.records import write_json

MS = 10**6


def candidate(head: int, tail: int, size: int) -> dict[str, int]:
    times = {"head_ns": head * MS, "encode_ns": 0, "decode_ns": 0, "tail_ns": tail * MS}
    return {**times, "bytes_up": size, "bytes_down": 4000 if size else 0}


ONE = {
    "model": "torchvision:efficientnet_b0",
    "batch": 1,
    "encoding": {"input": "uint8", "features": "float16"},
    "base_network_ns": MS,
    "candidates": {
        "offload": candidate(0, 40, 150_000),
        "3": candidate(40, 30, 30_000),
        "local": candidate(160, 0, 0),
    },
}
PROFILE: dict[str, Any] = {"batches": {"1": ONE, "4": {**ONE, "batch": 4}}}


def ask(rate_bps: int, **changed: Any) -> dict[str, Any]:
    asked = {"rtt_ns": 0, "batch": None, "load": 1.0, **changed}
    return advice(PROFILE, "efficientnet_b0", rate_bps=rate_bps, **asked)


def best(rate_bps: int, **changed: Any) -> str:
    return ask(rate_bps, **changed)["ranking"][0]["split"]


@pytest.mark.parametrize("profiled", ["torchvision:efficientnet_b0", "efficientnet_b0"])
@pytest.mark.parametrize("asked", ["torchvision:efficientnet_b0", "efficientnet_b0"])
def test_a_bare_name_means_torchvision(profiled: str, asked: str) -> None:
    measured = {"batches": {"1": {**ONE, "model": profiled}}}
    found = advice(measured, asked, rate_bps=6_000_000, rtt_ns=0, batch=None, load=1.0)
    assert re.fullmatch(r"split 3: \d+\.\d ms, \d+ % less than the next, local", found["answer"])


def test_each_choice_wins_where_it_should() -> None:
    assert best(1_000_000) == "local"
    assert best(6_000_000) == "3"
    assert best(100_000_000) == "offload"
    # A far or busy server sends the work back to the device.
    assert best(100_000_000, rtt_ns=200 * MS) == "local"
    assert best(100_000_000, load=4.0) == "local"
    assert best(100_000_000, load=2.0) == "offload"


@given(st.integers(10**5, 10**9), st.integers(0, 10**9), st.floats(1, 50))
def test_parts_add_up_and_the_ranking_rises(rate_bps: int, rtt_ns: int, load: float) -> None:
    rows = ask(rate_bps, rtt_ns=rtt_ns, load=load)["ranking"]
    assert len(rows) == 3
    for row in rows:
        parts = sum(row[f"{part}_ns"] for part in ("device", "uplink", "network", "server"))
        assert abs(parts - row["total_ns"]) <= 1
    totals = [row["total_ns"] for row in rows]
    assert totals == sorted(totals)
    told = predict_all(ONE, rate_bps, rtt_ns=rtt_ns, load=load)
    assert told == {row["split"]: row["total_ns"] for row in rows}


def test_bad_questions_are_told_the_remedy() -> None:
    with pytest.raises(UserError, match="the profile has 1, 4"):
        ask(10**6, batch=2)
    for load in (0.5, -1.0, float("nan"), float("inf"), 1e308):
        with pytest.raises(UserError, match="how many times slower"):
            ask(10**6, load=load)
    with pytest.raises(UserError, match="--rate"):
        ask(0)
    with pytest.raises(UserError, match="is of torchvision:efficientnet_b0"):
        advice(PROFILE, "resnet18", rate_bps=1, rtt_ns=0, batch=1, load=1)


def test_advise_prints_one_screen_and_one_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "profile.json", PROFILE)
    given_ = ["--device-profile", str(tmp_path / "profile.json"), "--rate", "6mbit", "--rtt", "2ms"]
    assert main(["advise", "efficientnet_b0", *given_]) == 0
    words = capsys.readouterr().out
    assert len(words.splitlines()) < 24
    assert words.splitlines()[-1].startswith("split 3: ")
    assert main(["advise", "efficientnet_b0", *given_, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rtt_ns"] == 2 * MS
    assert document["ranking"][0]["network_ns"] == 3 * MS
    assert main(["advise", "resnet18", *given_]) == 2
    assert "resnet18" in capsys.readouterr().err


def experiment(**changed: Any) -> Experiment:
    rate = {"rate": "10mbit"}
    links = {"a": {"uplink": rate, "downlink": rate}}
    model = {"name": "resnet18"}
    return Experiment(name="s", model=model, links=links, policies=("local",), **changed)


def test_cells_follow_the_seed_and_lie_in_the_grid() -> None:
    spec = {"low": "8mbit", "high": "80mbit", "step": "8mbit", "cells": 7}
    asked = {"profile": {"batches": (4, 1)}, "sweep": spec}
    assert profile_batches(experiment(**asked)) == (1, 4)
    assert profile_batches(experiment(batch=3)) == (3,)
    assert grid_rates(experiment(**asked)) == list(range(8_000_000, 80_000_001, 8_000_000))
    drawn = sample_cells(experiment(**asked))
    assert len(set(drawn)) == 7
    assert drawn == sample_cells(experiment(**asked))
    assert drawn != sample_cells(experiment(**asked, seed=2))
    assert [batch for _, batch in drawn] == sorted(batch for _, batch in drawn)
    for rate_bps, batch in drawn:
        assert rate_bps in grid_rates(experiment(**asked))
        assert batch in (1, 4)
    everything = {**asked, "sweep": {**spec, "cells": 1000}}
    assert len(sample_cells(experiment(**everything))) == 20


def test_a_grid_that_falls_is_refused() -> None:
    with pytest.raises(ValueError, match="at least low"):
        experiment(sweep={"low": "20mbit", "high": "10mbit"})
