"""One SSH connection a host: keys checked, a time-out on everything, idempotent close.

The socket is ours, with ``TCP_NODELAY``: paramiko leaves Nagle's algorithm on, which makes a
command ten times slower.
"""

from __future__ import annotations

import hashlib
import logging
import shlex
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import paramiko

from testbed.config import Host
from testbed.errors import GroupError, HostError
from testbed.hosts.address import Address, explain, hops_to, load_keys, require_keys
from testbed.hosts.channel import BROKEN, Completed, Progress, complete, deadline

# Without a handler Python prints paramiko's own errors beside ours; they are raised anyway.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

CONNECT_TIMEOUT_S = 15.0
COMMAND_TIMEOUT_S = 30.0
KEEPALIVE_S = 5
DEAD_PEER_MS = 30_000  # unacknowledged for so long, the kernel ends the connection (a cut cable)
SHOWN_CHARACTERS = 80  # of a command, in a message
REMOTE = Path(__file__).parent / "remote"  # standard-library scripts that run on the host
T = TypeVar("T")


class Connection:
    """An authenticated connection to one host of the inventory; use as a context manager.

    Raises HostError on every fault, with the host's name in the inventory and the remedy.
    """

    def __init__(self, name: str, host: Host) -> None:
        self.name = name
        self.host = host
        self.uploading = threading.Lock()  # two roles of one host want the same archive
        self._stack = ExitStack()
        try:
            client = None
            for hop in hops_to(host):
                client = self._hop(hop, client)
            assert client is not None
            self._transport = _transport(client)
        except BaseException:
            self._stack.close()
            raise

    def _hop(self, hop: Address, via: paramiko.SSHClient | None) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        self._stack.callback(client.close)
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        load_keys(client, hop)
        try:
            sock = _dial(hop) if via is None else _through(via, hop)
            self._stack.callback(sock.close)
            client.connect(
                hop.address,
                port=hop.port,
                username=hop.user,
                key_filename=None if hop.key is None else str(hop.key.expanduser()),
                sock=sock,
                allow_agent=hop.key is None,
                look_for_keys=hop.key is None,
                timeout=CONNECT_TIMEOUT_S,
                banner_timeout=CONNECT_TIMEOUT_S,
                auth_timeout=CONNECT_TIMEOUT_S,
                channel_timeout=CONNECT_TIMEOUT_S,
            )
        except BROKEN as error:
            raise HostError(self.name, explain(hop, client, error)) from error
        _transport(client).set_keepalive(KEEPALIVE_S)
        return client

    def open(self, argv: Sequence[str], timeout_s: float = COMMAND_TIMEOUT_S) -> paramiko.Channel:
        """A channel on which the quoted command has been started."""
        try:
            channel = self._transport.open_session(timeout=timeout_s)
            with deadline(timeout_s, channel):
                channel.exec_command(shlex.join(argv))
        except BROKEN as error:
            raise HostError(
                self.name, f"cannot start {argv[0]}: {error or type(error).__name__}"
            ) from error
        return channel

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
        progress: Progress | None = None,
    ) -> Completed:
        """Run a command to its end; its status is the caller's to judge.

        ``progress`` is told (bytes sent, bytes in all) of the input. Raises HostError when the
        command does not end in time or the connection breaks.
        """
        shown = shlex.join(argv)[:SHOWN_CHARACTERS]
        try:
            done = complete(self.open(argv, timeout_s), input, timeout_s, progress)
        except TimeoutError as error:
            raise HostError(self.name, f"{shown}: no end within {timeout_s:g} s") from error
        if not self._transport.is_active():
            raise HostError(self.name, f"{shown}: the connection broke")
        return done

    def script(
        self,
        name: str,
        *args: str,
        input: bytes | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
        progress: Progress | None = None,
    ) -> str:
        """Run one of the ``remote/`` scripts with the host's Python; its last line of output.

        The source is the constant part of the command line. Raises HostError with the script's
        last line of stderr when it fails.
        """
        source = (REMOTE / f"{name}.py").read_text()
        settings = [f"{key}={value}" for key, value in self.host.environment.items()]
        done = self.run(
            ["env", *settings, self.host.python, "-c", source, *args],
            input=input,
            timeout_s=timeout_s,
            progress=progress,
        )
        if done.status == 127:
            raise HostError(
                self.name,
                f"no {self.host.python!r} there; install Python ≥ 3.10 or set "
                f"hosts.{self.name}.python to its path",
            )
        if done.status != 0:
            told = done.stderr.decode(errors="replace").strip().splitlines()
            raise HostError(self.name, f"{name}: {told[-1] if told else f'status {done.status}'}")
        # A login shell's start-up file may print first; the script prints one line, last.
        return (done.stdout.decode().strip().splitlines() or [""])[-1]

    def put(
        self,
        data: bytes,
        path: str,
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
        progress: Progress | None = None,
        unpack: bool = False,
    ) -> str:
        """Store bytes on the host, whole or not at all, checked there by SHA-256.

        A relative path is under the package's cache folder; ``unpack`` makes a folder of a tar.gz.
        Returns the absolute path.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        kind = "folder" if unpack else "file"
        return self.script(
            "store", kind, path, sha256, input=data, timeout_s=timeout_s, progress=progress
        )

    def get(self, path: str, *, timeout_s: float = COMMAND_TIMEOUT_S) -> bytes:
        """The bytes of a file on the host."""
        done = self.run(["cat", "--", path], timeout_s=timeout_s)
        if done.status != 0:
            raise HostError(self.name, done.stderr.decode(errors="replace").strip())
        return done.stdout

    def close(self) -> None:
        """Close; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def each(
    what: str, tasks: Mapping[str, Callable[[], T]], give_up: Callable[[], None] = lambda: None
) -> dict[str, T]:
    """Results by host name; raises GroupError with every host's outcome where one failed.

    An interrupt waits for what is under way: each task has a bound of its own, or is one that
    ``give_up`` cuts short.
    """
    with ThreadPoolExecutor(max_workers=max(1, len(tasks))) as pool:
        try:
            futures = {name: pool.submit(task) for name, task in tasks.items()}
            wait(futures.values())
        except BaseException:  # interrupted; the pool still waits
            give_up()
            raise
    outcomes = {name: future.exception() for name, future in futures.items()}
    if any(error is not None for error in outcomes.values()):
        good = {n: f.result() for n, f in futures.items() if outcomes[n] is None}
        raise GroupError(what, outcomes, good)
    return {name: future.result() for name, future in futures.items()}


@contextmanager
def connect_all(hosts: Mapping[str, Host]) -> Iterator[dict[str, Connection]]:
    """Connections to all hosts, opened at once; closed on leaving, and where one fails."""
    require_keys(hosts)
    with ExitStack() as stack:

        def connect(name: str) -> Connection:
            connection = Connection(name, hosts[name])
            stack.callback(connection.close)
            return connection

        yield each("connect", {name: partial(connect, name) for name in hosts})


def _dial(hop: Address) -> socket.socket:
    sock = socket.create_connection((hop.address, hop.port), timeout=CONNECT_TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_MS)
    return sock


def _through(client: paramiko.SSHClient, hop: Address) -> paramiko.Channel:
    return _transport(client).open_channel(
        "direct-tcpip", (hop.address, hop.port), ("127.0.0.1", 0), timeout=CONNECT_TIMEOUT_S
    )


def _transport(client: paramiko.SSHClient) -> paramiko.Transport:
    transport = client.get_transport()
    assert transport is not None, "connected"
    return transport
