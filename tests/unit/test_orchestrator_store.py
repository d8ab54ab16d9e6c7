"""Records are written as they happen; only a manifest makes a run complete."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from testbed.errors import TestbedError, UserError
from testbed.orchestrator.profile import profile_from_records
from testbed.orchestrator.store import RunFolder, new_campaign, newest_campaign
from testbed.orchestrator.validity import Judgement, judge, unexplained
from testbed.records import read_json, sha256_file, write_json
from testbed.traces.trace import Schedule


def test_records_are_on_disk_before_the_run_ends(tmp_path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.append("queries", {"query": 0})
        assert (tmp_path / "run" / "queries.jsonl").read_text() == '{"query":0}\n'
        assert not (tmp_path / "run" / "manifest.json").exists()


def test_manifest_is_last_and_checks_every_file(tmp_path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.write("plan.json", {"run_id": "x"})
        folder.append("queries", {"query": 0})
        folder.finish({"state": "complete"})
        folder.append("queries", {"query": 1})  # a straggler is not this run's
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["schema_version"] == 1
    assert manifest["counts"]["queries"] == 1
    for name, digest in manifest["checksums"].items():
        assert sha256_file(tmp_path / "run" / name) == digest
    assert {"plan.json", "queries.jsonl"} <= set(manifest["checksums"])


def test_a_run_folder_is_never_written_twice(tmp_path) -> None:
    RunFolder(tmp_path / "run").close()
    with pytest.raises(FileExistsError):
        RunFolder(tmp_path / "run")


def test_campaign_folders_do_not_collide_and_the_newest_is_found(tmp_path) -> None:
    with pytest.raises(UserError, match="run one first"):
        newest_campaign(tmp_path)
    first, second = new_campaign(tmp_path, "x"), new_campaign(tmp_path, "x")
    assert first != second
    (second / "campaign.json").write_text("{}")
    assert newest_campaign(tmp_path) == second


def test_unwritable_results_are_the_callers_mistake(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose --results"):
        new_campaign(tmp_path / "file", "x")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'{"schema_version": 1, "state": "co', "breaks off or is none"),
        (b"\xff\xfe\0", "breaks off or is none"),
        (b"[" * 100_000, "breaks off or is none"),
        (b"[]", "expected a JSON object, got a list"),
        (b"{}", "reads up to 1, got None"),
        (b'{"schema_version": 2}', "reads up to 1, got 2"),
        (b'{"schema_version": 1}', "expected the key 'state', got none"),
        (None, "No such file"),
    ],
)
def test_a_document_that_cannot_be_read_is_one_line(tmp_path, text, told) -> None:
    if text is not None:
        (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(UserError, match=rf"a\.json: .*{told}.* do this") as caught:
        read_json(tmp_path / "a.json", "state", remedy="do this")
    assert "\n" not in str(caught.value)
    write_json(tmp_path / "a.json", {"state": "complete"})
    assert read_json(tmp_path / "a.json", "state") == {"schema_version": 1, "state": "complete"}


def record(split: str, head: int, network: int, up: int, **other) -> dict:
    return {
        "kind": "measured", "status": "ok", "split": split, "head_ns": head, "encode_ns": 10,
        "decode_ns": 20, "tail_ns": 1000, "network_ns": network, "bytes_up": up,
        "bytes_down": 1000, **other,
    }  # fmt: skip


def test_profile_is_medians_of_good_queries() -> None:
    # 100 full segments at 12 Mbit/s take 95 ms beyond the burst; what is left is the base.
    rows = [record("3", head, 95_000_000 + 700_000, 144_800) for head in (100, 300, 200)]
    rows += [record("3", 10**9, 10**9, 144_800, kind="warmup")]
    rows += [record("3", 10**9, 10**9, 144_800, status="fallback")]
    rows += [record("local", 5000, 0, 0)]
    made = profile_from_records(rows, candidates=("3", "local"), up_bps=12_000_000)
    assert made["base_network_ns"] == 700_000
    assert made["candidates"]["3"]["head_ns"] == 200
    assert made["candidates"]["3"]["n"] == 3
    assert made["candidates"]["local"]["head_ns"] == 5000


def test_profile_names_a_candidate_that_failed() -> None:
    with pytest.raises(TestbedError, match="candidate 5 has no successful query"):
        profile_from_records([], candidates=("5",), up_bps=1)


@pytest.mark.parametrize(
    ("done", "not_ok", "told"),
    [
        ({"link": {"late_p99_ns": 11_000_000}}, 0, "late"),
        ({"device": {"steal_share": 0.2}}, 0, "neighbours"),
        ({"device": {"queries": 50}}, 3, "3 of 50"),
    ],
)
def test_a_doubt_is_told_with_its_reason(done, not_ok, told) -> None:
    found = judge(done, 100_000_000, ["link"], {"device": not_ok})
    assert found.validity == "degraded"
    assert told in found.reasons[0]
    assert found.disturbed == (not_ok == 0)


def test_what_an_outage_explains_is_no_doubt() -> None:
    outages = ((5 * 10**9, 10**9),)
    cut = Schedule(((0, 10**7),), 10 * 10**9, "loop", 1, 0, outages=outages)
    whole = Schedule.constant(10**7)
    dues_ns = [round(t_s * 1e9) for t_s in (1, 4.9, 5, 5.9, 6.9, 7.1, 15.5)]
    assert unexplained(dues_ns, [cut, whole]) == 3
    assert unexplained(dues_ns, [replace(cut, end="hold"), whole]) == 4
    assert unexplained(dues_ns, [whole]) == 7


def test_a_quiet_run_is_valid() -> None:
    done = {
        "link": {"late_p99_ns": 1_000_000},
        "device": {"steal_share": 0.01, "queries": 100},
    }
    assert judge(done, 100_000_000, ["link"], {"device": 1}) == Judgement("valid", (), False)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"hosts": {"d": ({"frequency_hz": 2e9}, {"frequency_hz": 1.5e9})}}, "2.00 to 1.50 GHz"),
        ({"hosts": {"d": ({"governor": "performance"}, {"governor": "powersave"})}}, "powersave"),
        ({"hosts": {"d": ({"celsius": 50.0}, {"celsius": 63.0})}}, "from 50 to 63 °C"),
        ({"hosts": {"d": ({"celsius": 84.0}, {"celsius": 86.0})}}, "from 84 to 86 °C"),
        ({"hosts": {"d": ({"busy_share": 0.62}, {})}}, "62% of CPU time was in use before"),
        (
            {"others": {"d": (0.36, 0.12)}},
            "others took 36% of CPU time during the run, usually 12%",
        ),
        ({"clock_bounds_ns": {"d": 9_000_000}}, "known to 9.0 ms only"),
        (
            {"off_predicted": {"3": [2.0] * 8, "5": [2.0] * 7, "11": [1.2] * 8}},
            "stale for 3: queries take 100% more than predicted",
        ),
    ],
)
def test_drift_of_hosts_clocks_and_profile_is_told(facts, told) -> None:
    found = judge({}, 100_000_000, [], {}, **facts)
    assert found.validity == "degraded"
    assert told in found.reasons[0]
    calm = ({"a": 1, "celsius": 80.0, "busy_share": 0.4}, {"a": 2, "celsius": 84.0})
    others = {"d": (0.3, 0.12)}
    assert judge({}, 100_000_000, [], {}, hosts={"d": calm}, others=others).reasons == ()
