"""The link outside a campaign: what its verbs leave on the machine that they run on."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from testbed.errors import TestbedError
from testbed.orchestrator.log_folder import log_folder


def test_logs_stay_only_where_the_error_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with log_folder("link") as folder:
        assert (folder / "logs").is_dir()
    for error in (KeyboardInterrupt(), TestbedError("router: link: gone")):
        with pytest.raises(type(error)), log_folder("link"):
            raise error
    assert not list(tmp_path.iterdir())
    with pytest.raises(TestbedError), log_folder("link") as folder:
        raise TestbedError(f"router: no 'ready' within 30 s; see {folder / 'logs' / 'link.log'}")
    assert list(tmp_path.iterdir()) == [folder]


def test_the_next_folder_takes_away_what_a_kill_left_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(TestbedError), log_folder("link") as kept:
        raise TestbedError(f"see {kept}")
    program = (
        "from testbed.orchestrator.log_folder import log_folder\n"
        "with log_folder('check') as folder:\n"
        "    print(folder, flush=True)\n"
        "    input()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"TMPDIR": str(tmp_path)},
    )
    with other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        with log_folder("link") as folder:
            assert set(tmp_path.iterdir()) == {kept, left, folder}
        other.kill()
        other.wait()
        with log_folder("link") as folder:
            assert set(tmp_path.iterdir()) == {kept, folder}
