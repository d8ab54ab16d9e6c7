"""Load on a resource of the server's host: busy processes at a share of the time."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import suppress

from testbed.errors import TestbedError, UserError

_EXIT_TIMEOUT_S = 5.0


class Burner:
    """One busy process; it ends with its stdin, so it cannot outlive this one."""

    def __init__(self, kind: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "testbed.worker.burn", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self._lock = threading.Lock()
        self._busy_ns = 0
        self._reader = threading.Thread(target=self._read, name=f"burner {self.pid}")

    def await_ready(self) -> None:
        """Wait until it can begin; raises TestbedError when it has ended."""
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise TestbedError(f"load process {self.pid}: ended before it was ready; see the log")
        self._reader.start()

    def set_level(self, level: float) -> None:
        """The share of time from now on; raises TestbedError when it has ended."""
        stream = self._process.stdin
        assert stream is not None
        try:
            stream.write(f"{level}\n")
            stream.flush()
        except OSError as error:
            raise TestbedError(
                f"load process {self.pid}: ended unasked, exit status {self._process.poll()}"
            ) from error

    def take(self) -> int:
        """Nanoseconds busy since the last call."""
        with self._lock:
            busy_ns, self._busy_ns = self._busy_ns, 0
        return busy_ns

    def close(self) -> None:
        """End its stdin and wait; what does not end in time is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._reader.is_alive():
            self._reader.join()
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._lock:
                self._busy_ns += int(line)


class BurnLoad:
    """``threads`` busy processes at one level.

    Raises UserError for ``gpu`` on a host that has none.
    """

    def __init__(self, kind: str, threads: int) -> None:
        if kind == "gpu":
            _refuse_without_gpu()
        self.capacity = threads
        self._level: float | None = None
        self._burners = [Burner(kind) for _ in range(threads)]
        try:
            for burner in self._burners:
                burner.await_ready()
        except TestbedError:
            self.close()
            raise

    def set_level(self, level: float, target_ns: int) -> None:
        """Hold a level; each process keeps to its own share, so nothing is steered here."""
        if level != self._level:
            self._level = level
            for burner in self._burners:
                burner.set_level(level)

    def take(self) -> tuple[int, int]:
        """(0 queries, nanoseconds busy of all) since the last call."""
        return 0, sum(burner.take() for burner in self._burners)

    def close(self) -> None:
        """End every process."""
        for burner in self._burners:
            burner.close()


def _refuse_without_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            "load kind gpu: the server's torch sees no CUDA device; choose another kind of load"
        )
