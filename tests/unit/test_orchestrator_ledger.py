"""A campaign that goes on: what is complete stays, what is not is repeated, all is kept."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from testbed.config import Experiment
from testbed.errors import TestbedError, UserError
from testbed.orchestrator.inputs import keep, kept
from testbed.orchestrator.ledger import Ledger
from testbed.orchestrator.plan import Plan, PlannedRun, chosen
from testbed.orchestrator.store import RunFolder, seal, sole_writer
from testbed.orchestrator.watch import _held, view
from testbed.records import LOCK, read_json, write_json
from testbed.traces.formats import load_trace


def plan_of(*policies: str) -> Plan:
    runs = [
        PlannedRun(f"l.none.{p}.t0.abc", i, "l", "none", p, 0, 1, 1, 10**9)
        for i, p in enumerate(policies)
    ]
    return Plan(tuple(runs), ("local",), {})


def manifest(state: str = "complete", disturbed: bool = False) -> dict:
    validity = "degraded" if disturbed else "valid"
    return {"state": state, "validity": validity, "disturbed": disturbed, "reasons": ["why"]}


def write_run(campaign: Path, run_id: str, state: str | None) -> None:
    with RunFolder(campaign / run_id) as folder:
        folder.write("plan.json", {"run_id": run_id})
        folder.append("queries", {"query": 0, "kind": "measured", "split": "2", "e2e_ns": 5})
        if state is not None:
            folder.finish(manifest(state))


def test_what_is_complete_stays_and_the_rest_is_set_aside_and_due(tmp_path) -> None:
    plan = plan_of("a", "b", "c", "d")
    for policy, state in (("a", "complete"), ("b", "failed"), ("c", None)):
        write_run(tmp_path, f"l.none.{policy}.t0.abc", state)
    ledger = Ledger(tmp_path, plan, 1, {})
    ledger.take_up()
    assert [run.policy for run in ledger.due()] == ["b", "c", "d"]
    assert ledger.tally() == {"complete, valid": 1, "not begun": 3}
    aside = sorted(p.name for p in (tmp_path / "attempts").iterdir())
    assert aside == ["l.none.b.t0.abc.a1", "l.none.c.t0.abc.a1"]
    assert (tmp_path / "attempts" / aside[1] / "queries.jsonl").read_text()


@pytest.mark.parametrize(
    ("outcomes", "tries", "state"),
    [
        ([manifest()], 1, "complete, valid"),
        ([manifest(disturbed=True), manifest()], 2, "complete, valid"),
        ([manifest(disturbed=True), manifest(disturbed=True)], 2, "complete, degraded"),
        ([manifest("failed"), manifest("failed")], 2, "failed"),
    ],
)
def test_a_disturbed_or_failed_run_is_repeated_once_and_then_told(
    tmp_path, outcomes, tries, state
) -> None:
    ledger = Ledger(tmp_path, plan_of("a"), 1, {"experiment": "x"})
    (run,) = ledger.plan.runs
    again, done = True, 0
    while again:
        ledger.begin(run)
        write_run(tmp_path, run.run_id, None)
        again = ledger.ended(run, outcomes[done])
        done += 1
    assert done == tries
    assert ledger.tally() == {state: 1}
    assert ledger.due() == []
    (told,) = read_json(tmp_path / "campaign.json")["runs"]
    assert told["set_aside"] == tries - 1
    assert ledger.complete == state.startswith("complete")


def test_only_chooses_by_id_or_policy_and_refuses_what_names_nothing() -> None:
    plan = plan_of("local", "dynamic", "static:3")
    assert [r.policy for r in chosen(plan, ["static:*", "l.none.local.*"]).runs] == [
        "local",
        "static:3",
    ]
    assert chosen(plan, []) == plan
    with pytest.raises(UserError, match="--only dynamo: names no run"):
        chosen(plan, ["dynamo"])


def test_two_campaigns_cannot_write_one_folder(tmp_path) -> None:
    told = f"is being written by process {os.getpid()}"
    with sole_writer(tmp_path), pytest.raises(UserError, match=told), sole_writer(tmp_path):
        pass
    with sole_writer(tmp_path):
        pass


def test_one_who_only_looks_keeps_no_campaign_from_going_on(tmp_path) -> None:
    with (tmp_path / LOCK).open("a") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.1, looking.close).start()
        with sole_writer(tmp_path):
            assert _held(tmp_path / LOCK)


def test_a_full_disk_is_told_and_what_was_written_stays(tmp_path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with RunFolder(tmp_path / "run") as folder:
        folder.append("queries", {"query": 0})
        folder._streams["queries"].close()
        folder._streams["queries"] = open("/dev/full", "w", buffering=1)  # noqa: SIM115
        with pytest.raises(TestbedError, match=r"No space left on device.*run --resume"):
            folder.append("queries", {"query": 1})
    assert (tmp_path / "run" / "queries.jsonl").read_text() == '{"query":0}\n'
    (tmp_path / "a.json.tmp").symlink_to("/dev/full")
    with pytest.raises(TestbedError, match="No space left"):
        write_json(tmp_path / "a.json", {"x": 2})
    assert read_json(tmp_path / "a.json")["x"] == 1


def test_an_experiment_is_kept_with_its_traces_and_reads_back_the_same(tmp_path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("t_s,up_bps,down_bps\n0,8000000,9000000\n0.25,1000000,2000000\n1,,\n")
    side = {"trace": str(trace)}
    experiment = Experiment.model_validate(
        {
            "name": "x",
            "model": {"name": "resnet18"},
            "links": {"l": {"uplink": side, "downlink": side}},
            "policies": ["local", "static:3"],
            "candidates": ["3"],
        }
    )
    folder = tmp_path / "campaign"
    folder.mkdir()
    first = load_trace(trace)
    keep(folder, experiment, {str(trace): first})
    trace.unlink()
    again = kept(folder)
    own = again.links["l"].uplink.trace
    assert own is not None
    assert own.parent == folder.resolve() / "traces"
    read = load_trace(own)
    assert read.schedule("up", 10**8) == first.schedule("up", 10**8)
    blank = {"links": {}}
    assert again.model_copy(update=blank) == experiment.model_copy(update=blank)
    keep(folder, again, {str(own): read})  # a campaign that goes on keeps what it has
    assert kept(folder) == again
    assert len(list((folder / "traces").glob("*.csv"))) == 1


def test_the_seal_covers_what_no_run_vouches_for(tmp_path) -> None:
    write_run(tmp_path, "done", "complete")
    write_run(tmp_path, "cut", None)
    (tmp_path / "campaign.json").write_text("{}")
    (tmp_path / "campaign.log").write_text("x")
    seal(tmp_path, "interrupted")
    sealed = json.loads((tmp_path / "manifest.json").read_text())["checksums"]
    assert {"campaign.json", "done/manifest.json", "cut/queries.jsonl"} <= set(sealed)
    assert not {"done/queries.jsonl", "campaign.log", "manifest.json"} & set(sealed)


def test_a_watcher_sees_the_run_in_progress_and_who_was_killed(tmp_path) -> None:
    ledger = Ledger(tmp_path, plan_of("a", "b"), 1, {})
    write_run(tmp_path, "l.none.a.t0.abc", "complete")
    ledger.take_up()
    ledger.write("running")
    write_run(tmp_path, "l.none.b.t0.abc", None)
    with (tmp_path / "l.none.b.t0.abc" / "queries.jsonl").open("a") as stream:
        stream.write('{"query":1,"cut')
    with sole_writer(tmp_path):
        seen = view(tmp_path)
    assert (seen.state, seen.done, seen.planned) == ("running", 1, 2)
    assert (seen.run, seen.queries, seen.split) == ("l.none.b.t0.abc", 1, "2")
    assert view(tmp_path).state == "killed"
