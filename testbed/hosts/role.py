"""The orchestrator's end of the control protocol: one role, one process, one channel."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import paramiko

from testbed.control import ALIVE_INTERVAL_S, PROTOCOL_VERSION, Message
from testbed.errors import HostError, UserError
from testbed.hosts.channel import BROKEN
from testbed.hosts.connection import Connection
from testbed.hosts.launch import command_line

OnRecord = Callable[[str, str, dict[str, Any]], None]

HELLO_TIMEOUT_S = 120.0  # importing torch takes seconds, on a slow device half a minute
CLOSE_TIMEOUT_S = 10.0  # to put everything back after end of stdin
SIGNAL_TIMEOUT_S = 3.0
BLOCK_BYTES = 1 << 16
TAIL_LINES = 5


class RoleProcess:
    """A started role; a context manager whose exit ends it.

    A reader thread parses its messages: records go to ``on_record(role, file, record)`` there, all
    else waits for :meth:`wait`. Stderr goes to the log file as it comes.
    """

    def __init__(
        self, connection: Connection, role: str, argv: list[str], log: Path, record: OnRecord
    ) -> None:
        self.role = role
        self.host = connection.name
        self.hello: Message = {}
        self._connection = connection
        self._sudo = argv[0] == "sudo"
        self._record = record
        self._inbox: list[Message] = []
        self._changed = threading.Condition()
        self._attempt = 0  # how many starts were sent
        self._greeted = False
        self._ended = False
        self._fault: str | None = None
        self._log_path = log
        self._log: BinaryIO = log.open("ab", buffering=0)
        try:
            self._channel: paramiko.Channel = connection.open(argv)
        except BaseException:
            self._log.close()
            raise
        self._threads = [
            threading.Thread(target=target, name=f"{role} {target.__name__}", daemon=True)
            for target in (self._read_stdout, self._read_stderr)
        ]
        self._sending = threading.Lock()
        self._closing = threading.Event()
        keep = threading.Thread(target=self._keep_alive, name=f"{role} alive", daemon=True)
        for thread in (*self._threads, keep):
            thread.start()

    @classmethod
    def start(
        cls,
        connection: Connection,
        role: str,
        deployed: str,
        *,
        log: Path,
        on_record: OnRecord,
        sudo: bool = False,
    ) -> RoleProcess:
        """Start a role from the deployed folder and await its greeting; raises HostError."""
        argv = command_line(role, connection.host, deployed, sudo)
        process = cls(connection, role, argv, log, on_record)
        try:
            process.hello = process.wait("hello", HELLO_TIMEOUT_S)
            if process.hello["protocol"] != PROTOCOL_VERSION:
                raise HostError(
                    process.host,
                    f"{role}: expected protocol {PROTOCOL_VERSION}, "
                    f"got {process.hello['protocol']}; deploy again",
                )
        except BaseException:
            process.close()
            raise
        return process

    def send(self, message: Message) -> None:
        """Send one message; raises HostError when the role has ended."""
        if message["type"] == "start":
            with self._changed:
                self._attempt += 1
                self._forget_earlier()
            message = {**message, "attempt": self._attempt}
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            with self._sending:  # a long message goes in pieces; nothing may come between them
                self._channel.sendall(line)
        except BROKEN as error:
            self._join(SIGNAL_TIMEOUT_S)
            raise HostError(self.host, self._epitaph()) from error

    def wait(self, kind: str, timeout_s: float) -> Message:
        """The next message of a kind; other kinds keep waiting for their own callers.

        Raises HostError when the role reports an error (UserError when it is the caller's
        mistake), ends, or does not answer in time.
        """
        message = self.poll(kind, timeout_s)
        if message is None:
            raise HostError(
                self.host, f"{self.role}: no {kind!r} within {timeout_s:g} s; see {self._log_path}"
            )
        return message

    def poll(self, kind: str, timeout_s: float) -> Message | None:
        """As :meth:`wait`, with None where nothing came in time."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                self._check()
                for i, message in enumerate(self._inbox):
                    if message["type"] == kind:
                        return self._inbox.pop(i)
                if self._ended:
                    raise HostError(self.host, self._epitaph())
                if (left_s := deadline - time.monotonic()) <= 0:
                    return None
                self._changed.wait(left_s)

    def request(self, message: Message, expect: str, timeout_s: float) -> Message:
        """Send a message and wait for its answer; raises as :meth:`wait`."""
        self.send(message)
        return self.wait(expect, timeout_s)

    def check(self) -> None:
        """Raise what :meth:`wait` would, if the role has failed or ended; does not block."""
        with self._changed:
            self._check()
            if self._ended:
                raise HostError(self.host, self._epitaph())

    def stop(self) -> None:
        """End the present run early; its ``done`` still comes."""
        self.send({"type": "stop"})

    def close(self) -> None:
        """End of stdin, a bounded wait, then TERM and KILL by pid; a second call does nothing."""
        if self._log.closed:
            return
        self._closing.set()
        with suppress(*BROKEN):  # ended already
            self._channel.shutdown_write()
        if not self._join(CLOSE_TIMEOUT_S):
            self._kill()
        self._channel.close()
        self._join(SIGNAL_TIMEOUT_S)
        self._log.close()

    def _keep_alive(self) -> None:
        """Break the silence that a role takes for a cut cable."""
        with suppress(*BROKEN):
            while not self._closing.wait(ALIVE_INTERVAL_S):
                with self._sending:
                    self._channel.sendall(b'{"type":"alive"}\n')

    def _kill(self) -> None:
        if "pid" not in self.hello:
            return
        for signal in ("TERM", "KILL"):
            argv = ["kill", f"-{signal}", str(self.hello["pid"])]
            self._log.write(f"no exit after end of stdin: {' '.join(argv)}\n".encode())
            try:
                self._connection.run(["sudo", "-n", *argv] if self._sudo else argv)
            except HostError as error:  # the cable is cut: the host's end of stdin is all there is
                self._log.write(f"{error}\n".encode())
                return
            if self._join(SIGNAL_TIMEOUT_S):
                return

    def _join(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _check(self) -> None:
        if self._fault is not None:
            raise HostError(self.host, f"{self.role}: {self._fault}")
        for i, message in enumerate(self._inbox):
            if message["type"] == "error":
                del self._inbox[i]
                if message["user"]:
                    raise UserError(f"{self.host}: {self.role}: {message['message']}")
                raise HostError(self.host, f"{self.role}: {message['message']}")

    def _epitaph(self) -> str:
        status = self._channel.exit_status
        how = "a signal or a lost connection" if status < 0 else f"exit status {status}"
        lines = self._log_path.read_text(errors="replace").strip().splitlines()[-TAIL_LINES:]
        return f"{self.role}: ended by {how}; its last words: {' | '.join(lines) or 'none'}"

    def _read_stderr(self) -> None:
        while block := self._channel.recv_stderr(BLOCK_BYTES):
            self._log.write(block)

    def _read_stdout(self) -> None:
        rest = b""
        while block := self._channel.recv(BLOCK_BYTES):
            received_ns = time.monotonic_ns()
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                self._take(line, received_ns)
        self._channel.recv_exit_status()
        self._threads[1].join(SIGNAL_TIMEOUT_S)  # its last words are wanted for the message
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _take(self, line: bytes, received_ns: int) -> None:
        try:
            message = json.loads(line)
            kind = message["type"]
        except (ValueError, TypeError, KeyError):
            self._noise(line)
            return
        if message.get("attempt") not in (None, self._attempt):
            self._log.write(b"late word of an earlier try: " + line + b"\n")
            return
        if kind == "record":
            self._keep(message)
            return
        if kind == "clock":
            message["received_ns"] = received_ns
        elif kind == "error" and message["traceback"]:
            self._log.write(message["traceback"].encode())
        elif kind == "hello":
            self._greeted = True
        with self._changed:
            self._inbox.append(message)
            self._changed.notify_all()

    def _forget_earlier(self) -> None:
        """What was said before a start and that nobody waited for: of a run or try before."""
        for message in [m for m in self._inbox if m.get("attempt") is not None]:
            self._inbox.remove(message)
            self._log.write(f"late word of an earlier try: {json.dumps(message)}\n".encode())

    def _keep(self, message: Message) -> None:
        try:
            self._record(self.role, message["file"], message["record"])
        except Exception as error:  # a full disk here must not look like a silent role
            self._fail(f"a record could not be kept: {type(error).__name__}: {error}")

    def _noise(self, line: bytes) -> None:
        """Login shells may print before the greeting; after it, every line is the role's."""
        self._log.write(line + b"\n")
        if self._greeted:
            self._fail(f"expected a message, got {line[:80]!r}")

    def _fail(self, fault: str) -> None:
        with self._changed:
            self._fault = self._fault or fault
            self._changed.notify_all()

    def __enter__(self) -> RoleProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
