"""The command line's own duties: pipes that close, disks that are full, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from testbed.cli import main
from testbed.cli.common import Output
from testbed.orchestrator.terminal import Logged
from testbed.progress import Display

TESTBED = [sys.executable, "-m", "testbed"]


def _unread() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("as_json", [False, True])
def test_a_campaign_goes_on_without_a_reader(as_json: bool) -> None:
    program = f"""
import sys
from {__name__} import talk
talk({as_json})
"""
    broken = _unread()
    streams = {"stdout": subprocess.PIPE, "stderr": broken} if as_json else {"stdout": broken}
    done = subprocess.run([sys.executable, "-c", program], **streams, timeout=60)  # type: ignore[call-overload]
    os.close(broken)
    assert done.returncode == 0
    if as_json:
        assert json.loads(done.stdout) == {"stages": 3}


def talk(as_json: bool) -> None:
    """Three stages of a campaign, and its document."""
    out = Output(as_json)
    listener = Logged(Display(out.console))
    for name in ("one", "two", "three"):
        listener.stage(name)
    out.document({"stages": 3}, lambda: print("done"))
    sys.stdout.flush()


def test_a_full_disk_is_told_once_and_without_a_traceback() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*TESTBED, "lab", "status", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == "testbed: output: No space left on device\n"


def test_term_ends_any_verb_as_an_interrupt(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended() -> list[object]:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(10)
        return []

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr("testbed.lab.status", ended)
    try:
        signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("not handled by the verb"))
        assert main(["lab", "status", "--json"]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert json.loads(capsys.readouterr().out) == {"error": "interrupted", "exit_status": 1}


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["bottlenecks", "resnet18", "--plot", "none/a.png"], "there is no folder none"),
        (["bottlenecks", "resnet18", "--plot", "a.txt"], "ending in .png or .pdf or .svg"),
        (["bottlenecks", "resnet18", "--page", "file/a.html"], "'file' is a file"),
        (["trace", "show", "t.csv", "--plot", "folder.png"], "'folder.png' is a folder"),
        (["trace", "convert", "t.csv", "none/a.csv"], "there is no folder none"),
        (["trace", "generate", "lte", "a.txt"], "ending in .csv"),
        (["compare", "a", "b", "--out", "file"], "'file' is a file"),
        (["bundle", "a", "--out", "none/a.tar.gz"], "there is no folder none"),
        (["bundle", "a", "--out", "read-only/a.tar.gz"], "cannot be written"),
        (["run", "e.yaml", "--results", "file/results"], "file' is a file"),
        (["sweep", "e.yaml", "--results", "read-only/results"], "cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(
    argv: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    for name in ("folder.png", "read-only"):
        Path(name).mkdir()
    # Root may write into any folder of a file system that is not read-only.
    may = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: path.name != "read-only" and may(path, mode)
    )
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png", "read-only"]
