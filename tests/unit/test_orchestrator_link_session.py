"""The link outside a campaign: what its verbs leave on the machine that they run on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from testbed.errors import TestbedError
from testbed.orchestrator.link_session import log_folder


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
