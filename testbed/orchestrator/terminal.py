"""A campaign's words: to its log, and to the terminal as long as there is one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testbed.orchestrator.campaign import Listener
from testbed.orchestrator.plan import PlannedRun


def let_go_of_terminal() -> None:
    """Point standard streams that were a terminal, or are a broken pipe, at nothing."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)


@contextmanager
def outliving_terminal() -> Iterator[None]:
    """Let a campaign go on when its terminal is closed or its SSH connection breaks (SIGHUP)."""
    on_terminal = any(os.isatty(stream) for stream in (0, 1, 2))

    def hung_up(number: int, frame: object) -> None:
        if on_terminal:
            let_go_of_terminal()

    before = signal.signal(signal.SIGHUP, hung_up)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


class Logged:
    """A listener that writes each line to ``campaign.log`` before another shows it.

    What the terminal can no longer take is not an error: the log has it.
    """

    def __init__(self, shown: Listener) -> None:
        self._shown = shown
        self._early: list[str] = []
        self._path: Path | None = None

    def keep_in(self, folder: Path) -> None:
        """From now on write to the campaign's folder; what was said before goes there first."""
        self._path = folder / "campaign.log"
        lines, self._early = self._early, []
        with self._path.open("a") as stream:
            stream.writelines(lines)

    def _log(self, text: str) -> None:
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n"
        if self._path is None:
            self._early.append(line)
            return
        with self._path.open("a") as stream:
            stream.write(line)

    def _show(self, say: Callable[[], None]) -> None:
        try:
            say()
        except OSError:
            let_go_of_terminal()

    def stage(self, text: str) -> None:
        """A step of the set-up begins."""
        self._log(text)
        self._show(lambda: self._shown.stage(text))

    def run_started(self, planned: PlannedRun, total: int) -> None:
        """A run begins."""
        self._log(f"run {planned.index + 1}/{total} {planned.run_id}: started")
        self._show(lambda: self._shown.run_started(planned, total))

    def record(self, role: str, file: str, record: dict[str, Any]) -> None:
        """A record of the run in progress; the run's own folder keeps it."""
        self._show(lambda: self._shown.record(role, file, record))

    def run_finished(self, planned: PlannedRun, manifest: dict[str, Any]) -> None:
        """A run ended."""
        reasons = f" ({'; '.join(manifest['reasons'])})" if manifest["reasons"] else ""
        ended = f"{manifest['state']}, {manifest['validity']}{reasons}"
        self._log(f"run {planned.index + 1} {planned.run_id}: {ended}")
        self._show(lambda: self._shown.run_finished(planned, manifest))
