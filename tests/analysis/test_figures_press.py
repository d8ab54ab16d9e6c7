"""The process that draws figures: what it makes, what a bad figure does, and that it ends."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from analysis.figures.press import Press


def test_each_kind_is_drawn_and_nothing_is_left() -> None:
    with Press() as press:
        press.put("one", Figure(), ("png", "svg"))
        press.put("two", Figure(), ("pdf",))
        folder = press.finish()
        starts = {file.name: file.read_bytes()[:5] for file in folder.iterdir()}
    assert starts == {"one.png": b"\x89PNG\r", "one.svg": b"<?xml", "two.pdf": b"%PDF-"}
    assert not folder.exists()


def test_a_figure_that_cannot_be_drawn_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    figure = Figure()
    figure.text(0, 0, r"$\frac$")
    with Press() as press:
        press.put("bad", figure, ("png",))
        with pytest.raises(RuntimeError, match="draws the figures ended with 1"):
            press.finish()
    assert "Traceback" in capfd.readouterr().err


def test_the_process_ends_with_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    real = subprocess.Popen

    def popen(*args: object, **options: object) -> subprocess.Popen[str]:
        started.append(real(*args, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    with Press() as press:
        press.put("one", Figure(), ("png",))
        folder = Path(press._folder.name)
    assert started[0].poll() is not None
    assert not folder.exists()
