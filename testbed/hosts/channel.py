"""One command on one channel, brought to its end within a deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import paramiko

CHUNK_BYTES = 1 << 18
BROKEN = (OSError, EOFError, paramiko.SSHException)  # what paramiko raises when a channel is gone

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Completed:
    """A finished command; ``status`` is -1 where it was ended by a signal."""

    status: int
    stdout: bytes
    stderr: bytes


@contextmanager
def deadline(timeout_s: float, channel: paramiko.Channel) -> Iterator[threading.Event]:
    """Close the channel when time is up, which ends every wait on it; the event tells."""
    late = threading.Event()

    def end() -> None:
        late.set()
        channel.close()

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        timer.join()


def complete(
    channel: paramiko.Channel, data: bytes | None, timeout_s: float, progress: Progress | None
) -> Completed:
    """Feed and drain a started command to its end; raises TimeoutError.

    Both outputs are read while the input is written: whichever fills its window first would
    otherwise stop the others.
    """
    stdout: list[bytes] = []
    stderr: list[bytes] = []
    threads = [
        threading.Thread(target=_drain, args=(channel.recv_stderr, stderr), daemon=True),
        threading.Thread(target=_feed, args=(channel, data or b"", progress), daemon=True),
    ]
    with channel, deadline(timeout_s, channel) as late:
        for thread in threads:
            thread.start()
        _drain(channel.recv, stdout)
        status = channel.recv_exit_status()
        for thread in threads:
            thread.join()
    if late.is_set():
        raise TimeoutError
    return Completed(status, b"".join(stdout), b"".join(stderr))


def _drain(receive: Callable[[int], bytes], into: list[bytes]) -> None:
    while block := receive(CHUNK_BYTES):
        into.append(block)


def _feed(channel: paramiko.Channel, data: bytes, progress: Progress | None) -> None:
    try:
        for start in range(0, len(data), CHUNK_BYTES):
            channel.sendall(data[start : start + CHUNK_BYTES])
            if progress is not None:
                progress(min(start + CHUNK_BYTES, len(data)), len(data))
        channel.shutdown_write()
    except BROKEN:
        return  # the command ended before it read everything: its status tells
