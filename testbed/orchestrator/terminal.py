"""A campaign's words: to its log, and to the terminal as long as there is one."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from testbed.orchestrator.listener import Listener
from testbed.orchestrator.plan import PlannedRun


def let_go_of(streams: Iterable[int]) -> None:
    """Point these standard streams at nothing; the others may still carry a document."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in streams:
        os.dup2(nothing, stream)
    os.close(nothing)


def _gone() -> list[int]:
    """The output streams that nobody reads any more: a closed pipe, a terminal hung up."""
    asked = select.poll()
    for stream in (1, 2):
        asked.register(stream, select.POLLOUT)
    return [stream for stream, state in asked.poll(0) if state & (select.POLLERR | select.POLLHUP)]


@contextmanager
def outliving_terminal() -> Iterator[None]:
    """Let a campaign go on when its terminal is closed or its SSH connection breaks (SIGHUP)."""
    of_terminal = [stream for stream in (0, 1, 2) if os.isatty(stream)]

    def hung_up(number: int, frame: object) -> None:
        let_go_of(of_terminal)

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
        # A full disk is told by the records, which are worth more than this line.
        with suppress(OSError), self._path.open("a") as stream:
            stream.write(line)

    def _show(self, say: Callable[[], None]) -> None:
        try:
            say()
        except OSError:
            let_go_of(_gone())

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
