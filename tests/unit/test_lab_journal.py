"""The journal reads back as it was written, appears whole, and is refused when it is newer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.cli import main
from testbed.errors import UserError
from testbed.lab import journal
from testbed.lab.journal import Entry, Journal

ENTRY = Entry("tb-abc-device", "tb-abc-m0", "10.213.0.2", 2222, ("/cg/tb-abc-device",))
LAB = Journal("abc", "10.213.0.0/24", {"device": ENTRY}, ("cpuset",))


@pytest.fixture(autouse=True)
def run_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "run"
    monkeypatch.setenv("TESTBED_RUN_DIR", str(root))
    return root


def test_it_reads_back_as_written() -> None:
    journal.create(LAB)
    assert journal.read("abc") == LAB
    later = replace(LAB, hosts={"device": replace(ENTRY, limit="no cgroup", sshd=(12, 34))})
    journal.update(later)
    assert journal.read("abc") == later


def test_the_run_directory_is_private(run_root: Path) -> None:
    journal.create(LAB)
    assert run_root.stat().st_mode & 0o777 == 0o700
    assert LAB.run_dir.stat().st_mode & 0o777 == 0o700


def test_a_second_lab_of_the_id_is_refused_and_the_first_stays() -> None:
    journal.create(LAB)
    with pytest.raises(UserError, match="exists already"):
        journal.create(replace(LAB, subnet="10.213.1.0/24"))
    assert journal.read("abc") == LAB


def test_an_unknown_lab_is_refused_with_the_known_ones() -> None:
    journal.create(LAB)
    with pytest.raises(UserError, match=r"no such lab \(there is: abc\)"):
        journal.read("xyz")


def test_a_newer_journal_is_refused_with_the_remedy() -> None:
    journal.create(LAB)
    path = LAB.run_dir / "lab.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(UserError, match="use the testbed release"):
        journal.read("abc")


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 1}', "\0"])
def test_a_lab_that_cannot_be_read_is_told_and_the_others_are_seen(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.create(LAB)
    journal.create(replace(LAB, lab_id="bad"))
    (journal.run_root() / "bad" / "lab.json").write_text(text)
    assert main(["lab", "status", "--json"]) == 1
    found = capsys.readouterr()
    told = json.loads(found.out)
    assert [lab["lab_id"] for lab in told["labs"]] == ["abc"]
    (line,) = found.err.splitlines()
    assert line == f"testbed: {told['unreadable'][0]}"
    assert "lab bad: " in line
    assert "ip netns" in line


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--json", "device"], "leave it out"),
        (["device", "--json"], "expected a command behind device, got --json"),
        (["device"], "there is: none; make one"),
        (["--lab", "xyz", "device"], "no such lab"),
        (["--lab", "..", "device"], "no such lab"),
        (["--lab", "abc", "moon"], "no host moon; expected one of device"),
    ],
)
def test_a_shell_that_cannot_be_is_one_line(
    argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "abc" in argv:
        journal.create(LAB)
    assert main(["lab", "shell", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_discard_leaves_nothing_and_sweep_takes_only_halves(run_root: Path) -> None:
    journal.create(LAB)
    (run_root / "notes").mkdir()
    (run_root / ".tb-dead").mkdir()
    assert journal.lab_ids() == ["abc"]
    journal.discard(LAB)
    assert journal.lab_ids() == []
    assert journal.sweep() == [f"directory {run_root / '.tb-dead'}"]
    assert [path.name for path in run_root.iterdir()] == ["notes"]


@pytest.mark.parametrize("bad", ["relative/path", "/run/with space", "/run/%h"])
def test_a_directory_that_sshd_cannot_name_is_refused(
    bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTBED_RUN_DIR", bad)
    with pytest.raises(UserError, match="TESTBED_RUN_DIR"):
        journal.run_root()
