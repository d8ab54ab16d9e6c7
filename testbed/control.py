"""The role's end of the control protocol: one JSON object per line on stdin and stdout.

``hello → setup/ready → start/started → go → … → done``. End of stdin means stop and put
everything back: a role can never outlive its orchestrator. Standard library only.
"""

from __future__ import annotations

import json
import os
import queue
import select
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

from testbed.errors import TestbedError, UserError

PROTOCOL_VERSION = 1
# The orchestrator says ``alive`` every few seconds. After a cut cable the host's sshd may not
# notice for hours, so a role takes this much silence for the end of stdin.
ALIVE_INTERVAL_S = 5.0
SILENCE_TIMEOUT_S = 30.0
# How often a role whose words are not taken looks whether the orchestrator is gone.
_LOOK_UP_S = 1.0
Message = dict[str, Any]


class Control:
    """Messages to and from the orchestrator.

    A reader thread answers ``clock`` messages at once (the offset measurement must not wait for
    work in progress) and turns ``stop`` into :attr:`stopping`; all else queues for
    :meth:`receive`.
    """

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._lock = threading.Lock()
        self._unheard = False
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self.attempt: int | None = None  # the start being handled; every message carries it
        self.stopping = threading.Event()
        self._starts = self._stopped = 0  # how many were read, and how many of them are to stop
        self._begun = 0
        self._stops = threading.Lock()
        self.closed = threading.Event()
        threading.Thread(target=self._read, name="control", daemon=True).start()

    def _lines(self) -> Iterator[bytes]:
        """Lines until end of stdin, or until silence that only a cut cable explains."""
        rest = b""
        while select.select([self._source], [], [], SILENCE_TIMEOUT_S)[0]:
            block = os.read(self._source.fileno(), 1 << 16)
            if not block:
                return
            *lines, rest = (rest + block).split(b"\n")
            yield from lines
        print(f"no word from the orchestrator for {SILENCE_TIMEOUT_S:g} s", file=sys.stderr)

    def _read(self) -> None:
        try:
            for line in self._lines():
                self._take(json.loads(line))
        except (ValueError, KeyError, TypeError, OSError) as error:
            print(f"control: not a message: {error}", file=sys.stderr)
        finally:  # whatever ends the reading ends the role
            self.closed.set()
            self.stopping.set()
            self._inbox.put(None)

    def _take(self, message: Message) -> None:
        kind = message["type"]
        if kind == "clock":
            self.send("clock", n=message["n"], t_ns=time.monotonic_ns())
        elif kind == "stop":
            with self._stops:
                self._stopped = self._starts
                self.stopping.set()
        elif kind != "alive":
            self._starts += kind == "start"
            self._inbox.put(message)

    def begin(self, attempt: int | None) -> None:
        """A start is handled from now on; a stop that was meant for one before it is over.

        Only now, and not when the start is read: what it was meant for may not have seen it yet.
        """
        self.attempt = attempt
        with self._stops:
            self._begun += 1
            if self._stopped < self._begun and not self.closed.is_set():
                self.stopping.clear()

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message, or None at end of stdin; raises queue.Empty on time-out."""
        return self._inbox.get(timeout=timeout_s)

    def send(self, kind: str, **fields: Any) -> None:
        """Send one message; an orchestrator that is gone is noticed by the reader, not here.

        After its end nobody may read any more: a message that is not taken is then given up,
        and so are all that follow, or a full pipe would keep the role alive.
        """
        message = {"type": kind, "attempt": self.attempt, **fields}
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                self._write(line)
        except (ConnectionError, ValueError):
            self._unheard = True
            self.closed.set()
            self.stopping.set()

    def _write(self, line: bytes) -> None:
        """Write in pieces that a pipe with any room takes at once (pipe(7), ``PIPE_BUF``)."""
        sink, rest = self._sink.fileno(), memoryview(line)
        while rest and not self._unheard:
            if select.select([], [sink], [], _LOOK_UP_S)[1]:
                rest = rest[os.write(sink, rest[: select.PIPE_BUF]) :]
            elif self.closed.is_set():
                raise BrokenPipeError("nobody reads")

    def record(self, file: str, record: Message) -> None:
        """Send one record of the named file (``queries``, ``link``, ``load``, ``server``)."""
        self.send("record", file=file, record=record)


class Role(Protocol):
    """One process on one host, such as the ``device``'s, the ``link``'s or a ``build``'s."""

    def hello(self) -> Message:
        """Versions and facts sent with the greeting."""

    def handle(self, message: Message) -> None:
        """Act on one message; long work watches ``control.stopping``."""

    def close(self) -> None:
        """Put everything back; called on every exit path."""


def claim_stdio() -> tuple[BinaryIO, BinaryIO]:
    """Reserve stdin and stdout for the protocol; stray prints then go to stderr."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    os.close(devnull)
    os.dup2(2, 1)
    return source, sink


def serve(name: str, control: Control, role: Role) -> int:
    """Greet, then handle messages until end of stdin; returns the exit status.

    An error while handling is told to the orchestrator as ``{"type": "error", "message", "user",
    "traceback"}`` and the role lives on: the orchestrator decides what it means.
    """
    control.send(
        "hello",
        role=name,
        protocol=PROTOCOL_VERSION,
        pid=os.getpid(),
        python=sys.version.split()[0],
        **role.hello(),
    )
    try:
        while (message := control.receive()) is not None:
            try:
                if message["type"] == "start":
                    control.begin(message.get("attempt"))
                role.handle(message)
            except Exception as error:  # told to the orchestrator, which must hear of every one
                expected = isinstance(error, TestbedError)
                control.send(
                    "error",
                    message=str(error) if expected else f"{type(error).__name__}: {error}",
                    user=isinstance(error, UserError),
                    traceback=None if expected else traceback.format_exc(),
                )
    finally:
        role.close()
    return 0
