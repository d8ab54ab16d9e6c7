"""A process of its own that puts the link back when the role that shaped it is lost.

The role holds the write end of the watchdog's stdin and writes a byte a second. Its end by
whatever cause closes the pipe at once; a role that is stopped or stuck stays silent, and is killed.
``python -m testbed.link.watchdog ROLE_PID HANDLE...`` inherits the locked journals.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from testbed.errors import TestbedError
from testbed.link.journal import Journal
from testbed.link.recover import replay

BEAT_S = 0.5
# A role that is stuck is put right within five seconds of its last beat, restoring included.
PATIENCE_S = 3.5
SECOND_LOOK_S = 0.5  # a machine that stood still: the role's beat may come right after our own
START_TIMEOUT_S = 30.0
BEAT, LEAVE, ARMED = b".", b"q", b"armed\n"


def detached() -> list[str]:
    """What to put before a command so that it outlives its SSH session.

    Where systemd runs, logind may end a user's processes with the session: a scope of its own
    escapes that. Elsewhere a session of its own is enough.
    """
    if Path("/proc/1/comm").read_text().strip() == "systemd":
        return ["systemd-run", "--scope", "--quiet", "--collect"]
    return []


class Watchdog:
    """The role's end: arms on making, beats in a thread, leaves when told.

    Raises TestbedError where the process does not come up: nothing may be shaped unguarded.
    """

    def __init__(self, journals: Sequence[Journal]) -> None:
        handles = [journal.handle for journal in journals]
        command = [sys.executable, "-m", "testbed.link.watchdog", str(os.getpid())]
        self._process = subprocess.Popen(
            [*detached(), *command, *map(str, handles)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # An open stderr would keep the SSH channel open after the role's end.
            stderr=subprocess.DEVNULL,
            pass_fds=handles,
            start_new_session=True,
        )
        self._leaving = threading.Event()
        assert self._process.stdout is not None
        with self._process.stdout as told:
            ready = select.select([told], [], [], START_TIMEOUT_S)[0]
            if not ready or told.readline() != ARMED:
                self._process.kill()
                self._close()
                raise TestbedError(
                    "link: the watchdog did not start; the link is not shaped without one"
                )
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The watchdog's process."""
        return self._process.pid

    def _beat(self) -> None:
        while not self._leaving.wait(BEAT_S):
            self._write(BEAT)

    def _write(self, byte: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it was killed; the role still puts everything back
            os.write(self._process.stdin.fileno(), byte)

    def leave(self) -> None:
        """Everything is back: the watchdog ends and touches nothing."""
        self._leaving.set()
        self._thread.join()
        self._write(LEAVE)
        self._close()

    def _close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def role_is_lost(source: int, patience_s: float, second_look_s: float) -> bool:
    """Wait for the role's end or silence (True), or for its word that all is well (False)."""
    while True:
        if not any(select.select([source], [], [], s)[0] for s in (patience_s, second_look_s)):
            return True
        beats = os.read(source, 4096)
        if not beats:
            return True
        if LEAVE in beats:
            return False


def main(argv: list[str]) -> int:
    """Guard until the role is lost or says that all is well; returns the exit status."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    role_pid, *handles = map(int, argv)
    journals = [Journal.inherited(handle) for handle in handles]
    with suppress(BrokenPipeError):  # the role is lost already
        os.write(1, ARMED)
    if not role_is_lost(0, PATIENCE_S, SECOND_LOOK_S):
        return 0
    if os.getppid() == role_pid:  # alive, for it is still our parent: stopped or stuck
        os.kill(role_pid, signal.SIGKILL)
    status = 0
    for journal in journals:
        if not journal.path.exists():  # the role put this one back itself
            continue
        try:
            replay(journal)
        except Exception:  # told in the journal; one failure must not leave the others shaped
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
