"""The profile: its numbers, when it is tight, and when a kept one may be used."""

from __future__ import annotations

import copy
import json
import random
from math import inf
from pathlib import Path
from typing import Any

import pytest

from testbed.errors import TestbedError, UserError
from testbed.framing import serialisation_ns
from testbed.orchestrator.conditions import Conditions, Told
from testbed.orchestrator.fingerprint import find_profile, read_profile, store_profile
from testbed.orchestrator.profile import (
    drift,
    interval_share,
    profile_from_records,
    tails_under_load,
    widest,
)
from testbed.records import write_json

CANDIDATES = ("offload", "3", "local")
RATE_BPS = 20_000_000


def record(split: str, head_ns: int, **changed: Any) -> dict[str, Any]:
    size = {"offload": 150_000, "3": 40_000, "local": 0}[split]
    remote = split != "local"
    return {
        "kind": "measured",
        "status": "ok",
        "split": split,
        "head_ns": head_ns,
        "encode_ns": 10,
        "decode_ns": 20,
        "tail_ns": 3_000 if remote else 0,
        "network_ns": serialisation_ns(size, RATE_BPS) + 700 if remote else 0,
        "bytes_up": size,
        "bytes_down": 4_000 if remote else 0,
        **changed,
    }


def records(n: int = 20) -> list[dict[str, Any]]:
    return [record(split, 1_000_000 + 1_000 * i) for i in range(n) for split in CANDIDATES]


def test_medians_and_the_base_of_the_network() -> None:
    rows = records(21)
    rows += [record("3", 9**9, kind="warmup"), record("3", 9**9, status="fallback")]
    found = profile_from_records(rows, candidates=CANDIDATES, up_bps=RATE_BPS)
    assert found["base_network_ns"] == 700
    assert list(found["candidates"]) == list(CANDIDATES)
    assert found["candidates"]["3"]["head_ns"] == 1_010_000
    assert found["candidates"]["3"]["n"] == 21
    with pytest.raises(TestbedError, match="candidate 9"):
        profile_from_records(rows, candidates=("9",), up_bps=RATE_BPS)


def test_tails_under_load_are_of_what_crossed() -> None:
    rows = [
        record(split, 1, tail_ns=9_000 + i, server_wait_ns=4_000 + i)
        for i in range(21)
        for split in CANDIDATES
    ]
    found = tails_under_load([*rows, record("3", 1, status="fallback")])
    assert set(found) == {"offload", "3"}
    expected = {"tail_ns": 9_010, "tail_iqr_ns": 11, "wait_ns": 4_010, "n": 21}
    assert found["3"] == expected


def test_interval_holds_the_median_as_often_as_it_says() -> None:
    draw = random.Random(4).lognormvariate
    gauss = random.Random(5).gauss
    held = 0
    for _ in range(400):
        values = [round(1e6 + 1e5 * gauss(0, 1)) for _ in range(40)]
        middle = sorted(values)[20]
        # An interval of order statistics is not centred on the median: a fifth wider holds it.
        held += abs(middle - 1e6) <= 1.2 * interval_share(values) * middle
    assert held / 400 > 0.9
    few = interval_share([round(1e6 * draw(0, 0.2)) for _ in range(20)])
    many = interval_share([round(1e6 * draw(0, 0.2)) for _ in range(500)])
    assert many < few / 2
    assert interval_share([5, 5]) == inf
    assert interval_share([]) == inf
    assert interval_share([7] * 12) == 0


def test_the_widest_candidate_decides() -> None:
    rows = [row for row in records(20) if row["split"] != "3"]
    rows += [record("3", 1_000_000 * (1 + i % 2)) for i in range(20)]
    found = profile_from_records(rows, candidates=CANDIDATES, up_bps=RATE_BPS)
    assert widest(found) == found["candidates"]["3"]["interval_share"] > 0.2
    too_few = profile_from_records(records(3), candidates=CANDIDATES, up_bps=RATE_BPS)
    assert widest(too_few) == inf


def test_drift_is_told_by_candidate() -> None:
    before = profile_from_records(records(), candidates=CANDIDATES, up_bps=RATE_BPS)
    slower = copy.deepcopy(before)
    slower["candidates"]["local"]["head_ns"] *= 2
    told = drift(before, slower)
    assert told["local"] == 2.0
    assert told["3"] == 1.0


KEY = {
    "archive_sha256": "ab",
    "candidates": ["offload", "local"],
    "encoding": {"input": "uint8", "features": "float16"},
    "model": {"name": "m", "seed": 0},
    "engine": {"torch": "2", "code": "c"},
    "hosts": {"device": {"hostname": "d", "threads": 1}, "server": {"hostname": "s"}},
}
KEPT = {"key": KEY, "batches": {"1": {"batch": 1, "candidates": {}}, "4": {"batch": 4}}}


def test_a_kept_profile_is_found_by_its_key_and_batch(tmp_path: Path) -> None:
    path = store_profile(KEPT, tmp_path)
    assert find_profile(KEY, 4, tmp_path) == (path, {"batch": 4})
    assert find_profile(KEY, 2, tmp_path) is None
    assert find_profile(KEY, 1, tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("archive_sha256", "cd"),
        ("candidates", ["offload", "3", "local"]),
        ("encoding", {"input": "uint8", "features": "float32"}),
        ("model", {"name": "m", "seed": 1}),
        ("engine", {"torch": "2.1", "code": "c"}),
        ("hosts", {**KEY["hosts"], "device": {"hostname": "d", "threads": 2}}),
    ],
)
def test_any_other_key_finds_nothing(tmp_path: Path, part: str, changed: Any) -> None:
    path = store_profile(KEPT, tmp_path)
    assert find_profile({**KEY, part: changed}, 1, tmp_path) is None
    # Nor does a file that lies under another key's name.
    other = {**KEY, part: changed}
    path.rename(store_profile({**KEPT, "key": other}, tmp_path))
    assert find_profile(other, 1, tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 1}', '{"schema_version": 2}'])
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"p\.json.*testbed profile"):
        read_profile(path)
    with pytest.raises(UserError, match="testbed profile"):
        read_profile(tmp_path / "absent.json")


def test_a_campaigns_own_profile_reads_as_one_of_one_batch(tmp_path: Path) -> None:
    write_json(tmp_path / "p.json", {"batch": 8, "candidates": {"local": {}}})
    found = read_profile(tmp_path / "p.json")
    assert list(found["batches"]) == ["8"]
    assert json.dumps(found)


def test_a_profile_foretells_one_device_that_goes_by_it_whichever_it_is() -> None:
    chooses, fixed = Told({"name": "dynamic"}, None), Told({"name": "static:5"}, None)
    for devices, foretold in (
        ({"device": chooses}, True),
        ({"device-nano": chooses}, True),
        ({"device": fixed}, False),
        ({"device": chooses, "device-nano": chooses}, False),
    ):
        assert Conditions({}, devices, None, 10**8, None).foretold == foretold
