"""The server's conversations: what may come in, what is refused and why."""

from __future__ import annotations

import hashlib
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.worker.client import Connection, Endpoint, Refused
from testbed.worker.transfer import (
    Receiver,
)
from testbed.worker.wire import (
    HEADER_BYTES,
    MAX_PROBE_BYTES,
    MAX_TEXT_BYTES,
    Dtype,
    Header,
    Kind,
    PeerTimeout,
    describe,
    seal,
)
from tests.unit.loopback_server import LAYOUTS, OUTPUTS, LoopbackServer

SECOND_NS = 10**9


class Server(LoopbackServer):
    """One whose events can be waited for."""

    def __init__(self, congestion_control: str | None = None) -> None:
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        super().__init__(self.events.put, congestion_control)

    def endpoint(self, token: str = "secret") -> Endpoint:
        return Endpoint("127.0.0.1", self.port, token, SECOND_NS, None)

    def event(self, name: str) -> dict[str, Any]:
        while (event := self.events.get(timeout=5))["event"] != name:
            pass
        return event


@pytest.fixture
def server() -> Iterator[Server]:
    with closing(Server()) as running:
        yield running


def answers(server: Server) -> bool:
    with closing(Connection(server.endpoint(), OUTPUTS)) as connection:
        payload = memoryview(struct.pack("<64f", *(64 * [1.0])))
        reply = connection.query(11, LAYOUTS["0"], payload)
        return struct.unpack("<5f", reply.logits) == (64.0,) * 5


def test_a_reply_keeps_its_times_when_another_has_come(server: Server) -> None:
    payload = memoryview(bytes(256))
    with closing(Connection(server.endpoint(), OUTPUTS)) as connection:
        # Its number is the last there is: the one that the server then expects is the first.
        first = connection.query(2**64 - 1, LAYOUTS["0"], payload, verify=True)
        second = connection.query(0, LAYOUTS["0"], payload)
        connection.probe(1, payload)
        assert first.times.digest == hashlib.sha256(payload).digest()
        assert second.times.digest == bytes(32)


TOKEN = seal(describe(Header(Kind.TOKEN, 0, Dtype.RAW, 0, (), 6))) + b"secret"
ZERO = LAYOUTS["0"].header(0)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (ZERO._replace(payload_bytes=ZERO.payload_bytes + 4), "expected float32"),
        (ZERO._replace(shape=(2, 4, 4, 4), payload_bytes=512), "expected float32"),
        (ZERO._replace(dtype=Dtype.FLOAT16), "expected float32"),
        (ZERO._replace(flags=2), "flags 2"),
        (ZERO._replace(split=2), "split id"),
        (ZERO._replace(kind=Kind.REPLY), "frame kind"),
        (ZERO._replace(payload_bytes=2**63), "expected float32"),
        (Header(Kind.PROBE, 0, 0, 0, (), MAX_PROBE_BYTES + 1), "probe"),
    ],
)
def test_frame_that_the_table_does_not_allow(server: Server, header: Header, reason: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(TOKEN)
        server.event("connected")
        sock.recv(HEADER_BYTES)
        sock.sendall(seal(describe(header)))
        assert reason in server.event("bad_frame")["reason"]
        assert sock.recv(4096)[5] == Kind.ERROR
        assert sock.recv(1) == b""
    assert answers(server)


@pytest.mark.parametrize("size", [0, 1, 20, HEADER_BYTES - 1, len(TOKEN) - 1])
def test_truncated_first_frame(server: Server, size: int) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(TOKEN[:size])
    assert "closed by the peer" in server.event("closed")["reason"]
    assert answers(server)


def test_a_header_that_comes_in_drops_holds_nobody() -> None:
    near, far = socket.socketpair()
    with near, far:
        buffer = memoryview(bytearray(HEADER_BYTES + MAX_TEXT_BYTES))
        receiver = Receiver(near, buffer, lambda header: None)

        def drip() -> None:
            with suppress(OSError):
                for byte in TOKEN[:HEADER_BYTES]:
                    far.send(bytes([byte]))
                    time.sleep(0.02)

        threading.Thread(target=drip, daemon=True).start()
        with pytest.raises(PeerTimeout, match="header"):
            receiver.receive(timeout_ns=100_000_000)


def test_what_a_host_cannot_do_for_a_connection_is_told() -> None:
    with closing(Server(congestion_control="none-such")) as server:
        with pytest.raises((Refused, OSError), match=r"congestion_control|reset"):
            Connection(server.endpoint(), OUTPUTS)
        assert "congestion_control" in server.event("closed")["reason"]


@given(noise=st.binary(min_size=HEADER_BYTES, max_size=200))
def test_noise_never_harms_the_server(shared: Server, noise: bytes) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=5) as sock:
        sock.sendall(noise)
        assert "magic" in shared.event("bad_frame")["reason"]


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with closing(Server()) as running:
        yield running
        assert answers(running)


def test_wrong_token_is_refused_and_told(server: Server) -> None:
    with pytest.raises((Refused, OSError), match=r"token|reset"):
        Connection(server.endpoint("secreT"), OUTPUTS)
    assert "token" in server.event("refused")["reason"]
    assert answers(server)


def test_query_before_the_token_is_refused(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(seal(describe(LAYOUTS["0"].header(0))))
        assert "first frame" in server.event("bad_frame")["reason"]
    assert answers(server)


def test_probe_tells_a_span_and_runs_nothing(server: Server) -> None:
    with closing(Connection(server.endpoint(), OUTPUTS)) as connection:
        reply = connection.probe(1, memoryview(bytes(200_000)))
        assert reply.logits == b""
        assert reply.bytes_up == HEADER_BYTES + 200_000
        assert server.event("query")["split"] is None
