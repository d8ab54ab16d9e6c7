"""A folder that is not as it was written is found out, whatever was done to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.audit import audit
from testbed.errors import UserError
from testbed.orchestrator.bundle import unpacked, write_bundle
from testbed.records import sha256_file
from tests.analysis.synthetic import Maker


@pytest.fixture
def campaign(make_campaign: Maker) -> Path:
    return make_campaign(policies=("local", "offload"), duration_s=2)


def run_of(campaign: Path, policy: str) -> Path:
    (run,) = campaign.glob(f"*.{policy}.*")
    return run


def sign_again(run: Path, name: str) -> None:
    """What a forger does who knows of the run's checksums."""
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["checksums"][name] = sha256_file(run / name)
    (run / "manifest.json").write_text(json.dumps(manifest))


def drop_line(campaign: Path) -> None:
    path = run_of(campaign, "offload") / "queries.jsonl"
    path.write_text("\n".join(path.read_text().split("\n")[:2] + path.read_text().split("\n")[3:]))


def drop_line_and_sign(campaign: Path) -> None:
    drop_line(campaign)
    sign_again(run_of(campaign, "offload"), "queries.jsonl")


def back_in_time(campaign: Path) -> None:
    path = run_of(campaign, "offload") / "server.jsonl"
    path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    sign_again(run_of(campaign, "offload"), "server.jsonl")


def cut_last_line(campaign: Path) -> None:
    path = run_of(campaign, "local") / "queries.jsonl"
    path.write_text(path.read_text()[:-20])


def break_a_line(campaign: Path) -> None:
    path = run_of(campaign, "local") / "queries.jsonl"
    path.write_text(path.read_text().replace('"query":2,', '"query":2"', 1))


def change_verify(campaign: Path) -> None:
    path = campaign / "verify.json"
    path.write_text(path.read_text().replace("true", "false", 1))


def add_run_file(campaign: Path) -> None:
    (run_of(campaign, "local") / "notes.txt").write_text("x")


def add_file(campaign: Path) -> None:
    (campaign / "notes.txt").write_text("x")


def break_manifest(campaign: Path) -> None:
    path = run_of(campaign, "local") / "manifest.json"
    path.write_text(path.read_text()[:-20])


def break_plan(campaign: Path) -> None:
    (run_of(campaign, "local") / "plan.json").write_text("[]")


def break_campaign(campaign: Path) -> None:
    (campaign / "campaign.json").write_text("{")


def break_campaign_manifest(campaign: Path) -> None:
    (campaign / "manifest.json").write_text("\0")


def take_schema(campaign: Path) -> None:
    path = run_of(campaign, "local") / "clock.json"
    path.write_text(path.read_text().replace("schema_version", "version"))


def link_nowhere(campaign: Path) -> None:
    path = run_of(campaign, "local") / "queries.jsonl"
    path.unlink()
    path.symlink_to("nowhere")


def take_run(campaign: Path) -> None:
    run = run_of(campaign, "local")
    for file in run.iterdir():
        file.unlink()
    run.rmdir()


def take_manifest(campaign: Path) -> None:
    (campaign / "manifest.json").unlink()


def test_a_folder_as_it_was_written_has_no_fault(campaign: Path) -> None:
    found = audit(campaign)
    assert found.faults == []
    assert found.notes == []
    assert found.runs == 2
    counted = sum(len(p.read_text().splitlines()) for p in campaign.glob("*/*.jsonl"))
    assert found.records == counted
    assert audit(run_of(campaign, "local")).faults == []


def test_the_report_is_derived_and_no_part_of_what_is_vouched_for(campaign: Path) -> None:
    (campaign / "report").mkdir()
    (campaign / "report" / "report.html").write_text("x")
    (campaign / "campaign.log").write_text("x")
    assert audit(campaign).faults == []


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (drop_line, "queries.jsonl: changed since it was written"),
        (drop_line_and_sign, "manifest.json: changed since it was written"),
        (drop_line_and_sign, "queries are missing or double"),
        (back_in_time, "t_ns goes back in time"),
        (cut_last_line, "the last line is cut"),
        (break_a_line, "queries.jsonl:3: expected one JSON object a line"),
        (change_verify, "verify.json: changed since it was written"),
        (add_run_file, "notes.txt: not written by the run"),
        (add_file, "notes.txt: not written by the campaign"),
        (take_run, "campaign.json says complete, no folder"),
        (take_manifest, "manifest.json is missing"),
        (break_manifest, ".local.t0.abc123/manifest.json: expected a JSON document"),
        (break_plan, ".local.t0.abc123/plan.json: expected a JSON object, got a list"),
        (break_campaign, "campaign.json: expected a JSON document"),
        (break_campaign_manifest, "manifest.json: expected a JSON document"),
        (take_schema, "clock.json: schema_version: this release reads up to 1, got None"),
        (link_nowhere, "queries.jsonl: cannot be read: No such file or directory"),
    ],
)
def test_an_edit_is_found_out(campaign: Path, edit: Callable[[Path], None], told: str) -> None:
    edit(campaign)
    assert told in "\n".join(audit(campaign).faults)


def test_what_is_broken_hides_nothing_of_what_is_wrong_elsewhere(campaign: Path) -> None:
    break_campaign(campaign)
    break_manifest(campaign)
    add_run_file(campaign)
    drop_line_and_sign(campaign)
    found = audit(campaign)
    told = "\n".join(found.faults)
    assert found.runs == 2
    assert "campaign.json: expected a JSON document" in told
    assert "local.t0.abc123/manifest.json: expected a JSON document" in told
    assert "offload.t0.abc123/queries.jsonl: queries are missing or double" in told


WRONG: tuple[Any, ...] = (None, 7, "x", [], [7], {}, {"x": 7})


@pytest.mark.parametrize("file", ["campaign.json", "manifest.json", "run/manifest.json"])
def test_no_value_of_another_type_stops_the_audit(campaign: Path, file: str) -> None:
    run = run_of(campaign, "offload")
    path = run / "manifest.json" if file.startswith("run/") else campaign / file
    document = json.loads(path.read_text())
    for key in document.keys() - {"schema_version", "state"}:
        for wrong in WRONG:
            path.write_text(json.dumps({**document, key: wrong}))
            assert audit(campaign).faults, (key, wrong)


def test_an_empty_folder_and_a_newer_schema_are_the_callers_mistake(
    campaign: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected a campaign folder"):
        audit(tmp_path / "empty")
    plan = run_of(campaign, "local") / "plan.json"
    plan.write_text(plan.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(UserError, match="reads up to 1, got 2"):
        audit(campaign)


def test_a_bundle_is_the_same_each_time_and_holds_what_was_measured(
    campaign: Path, tmp_path: Path
) -> None:
    first = write_bundle(campaign, tmp_path / "a.tar.gz")
    second = write_bundle(campaign, tmp_path / "b.tar.gz")
    assert first.read_bytes() == second.read_bytes()
    with unpacked(first) as (folder, faults):
        assert faults == []
        assert audit(folder).faults == []
        assert (folder.parent / "project" / "requirements.lock").is_file()
        assert "testbed reproduce" in (folder.parent / "REPRODUCE.md").read_text()
    with pytest.raises(UserError, match="is there already"):
        write_bundle(campaign, first)
    with pytest.raises(UserError, match="lies in the campaign"):
        write_bundle(campaign, campaign / "report" / ".." / "c.tar.gz")


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"x")
    with pytest.raises(UserError, match="expected a bundle"), unpacked(tmp_path / "x.tar.gz"):
        pass
