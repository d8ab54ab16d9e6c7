"""The wire: what may come in, what is refused and why, and what the arrival tells."""

from __future__ import annotations

import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from testbed.model.table import SplitPoint, SplitTable
from testbed.worker.client import Connection, Endpoint, Refused
from testbed.worker.encoding import Decoder, Encoder, aligned_buffer, tensor_view
from testbed.worker.layout import layouts
from testbed.worker.service import Service, Terms
from testbed.worker.transfer import (
    Receiver,
    burst_spent,
    configure,
    mark_bytes,
    send,
    span_ip_bytes,
)
from testbed.worker.wire import (
    HEADER_BYTES,
    MAX_DIMS,
    MAX_PROBE_BYTES,
    MAX_TEXT_BYTES,
    BadFrame,
    Dtype,
    Header,
    Kind,
    PeerGone,
    PeerTimeout,
    describe,
    seal,
    understand,
    unseal,
)

SECOND_NS = 10**9
OUTPUTS = 5
TABLE = SplitTable(
    "tiny",
    8,
    (3, 8, 8),
    OUTPUTS,
    (
        SplitPoint("offload", -1, "input", (), ((3, 8, 8),), 1.0, False, False),
        SplitPoint("0", 0, "a", ("a",), ((4, 4, 4),), 0.3, True, True),
        SplitPoint("local", 1, "output", ("b",), ((OUTPUTS,),), 0.03, False, False),
    ),
)
LAYOUTS = layouts(TABLE, ("offload", "0", "local"), {"input": "uint8", "features": "float32"}, 1)


@given(
    st.builds(
        Header,
        st.integers(0, 255),
        st.integers(0, 255),
        st.integers(0, 255),
        st.integers(0, 2**16 - 1),
        st.lists(st.integers(0, 2**32 - 1), max_size=MAX_DIMS).map(tuple),
        st.integers(0, 2**64 - 1),
    ),
    st.integers(0, 2**64 - 1),
)
def test_header_reads_back_as_written(header: Header, query: int) -> None:
    whole = seal(describe(header), query)
    assert len(whole) == HEADER_BYTES
    assert understand(whole[: len(describe(header))]) == header
    assert unseal(memoryview(whole)) == query


@given(st.integers(0, HEADER_BYTES - 1), st.integers(1, 255))
def test_any_damaged_byte_is_noticed(position: int, flip: int) -> None:
    whole = bytearray(seal(describe(LAYOUTS["0"].header(0)), 7))
    whole[position] ^= flip
    with pytest.raises(BadFrame):
        unseal(memoryview(whole))


def test_too_many_dimensions_are_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at most 6"):
        describe(Header(Kind.QUERY, 0, Dtype.UINT8, 0, (1,) * 7, 1))


def test_span_counts_from_a_full_segment_to_the_one_before_the_last() -> None:
    # 20 full segments and 448 bytes; the mark after the fifth: 6th..20th are released in it.
    total = 20 * 1448 + 448
    assert span_ip_bytes(total, 5 * 1448) == (15 * 1448 + 448 + 1448 - 448) * 1500 // 1448
    assert span_ip_bytes(20 * 1448, 5 * 1448) == 15 * 1500
    assert span_ip_bytes(12 * 1448, 5 * 1448) is None
    assert span_ip_bytes(5_000, 5_000) is None


def test_mark_follows_the_bucket() -> None:
    assert mark_bytes(0) == 5 * 1448
    assert mark_bytes(800e6) == 100_000 * 1448 // 1514


def test_a_span_inside_the_burst_is_told_from_one_after_it() -> None:
    early = mark_bytes(0)
    # Up to 60 Mbit/s the bucket is five packets deep: the early mark is right.
    assert burst_spent(24_000, 50e6, early)
    # At 170 Mbit/s it is 21 kB: most of a small payload's span would be burst.
    assert not burst_spent(24_000, 170e6, early)
    assert burst_spent(24_000, 170e6, mark_bytes(170e6))
    # In a large payload the same bytes are nothing.
    assert burst_spent(143_000, 125e6, early)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        yield near, far


def receiver(sock: socket.socket, timeout_ns: int = SECOND_NS) -> Receiver:
    configure(sock, timeout_ns, None)
    return Receiver(sock, aligned_buffer(HEADER_BYTES + 400_000), lambda header: None)


def raw(size: int) -> bytes:
    return describe(Header(Kind.QUERY, 0, Dtype.RAW, 0, (), size))


def test_large_payload_arrives_whole_with_a_span(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    configure(near, SECOND_NS, None)
    payload = bytes(torch.arange(300_000, dtype=torch.int64).to(torch.uint8).tolist())
    sender = threading.Thread(
        target=send, args=(near, seal(raw(300_000), 3), payload), kwargs={"timeout_ns": SECOND_NS}
    )
    sender.start()
    # Below the mark nothing counts: the span cannot hold more than what came after it.
    frame = receiver(far).receive(timeout_ns=SECOND_NS, mark_bytes=100_000)
    sender.join()
    assert bytes(frame.payload) == payload
    assert frame.query == 3
    if frame.span_bytes is not None:
        assert frame.span_bytes <= (200_000 + HEADER_BYTES + 1448) * 1500 // 1448
        assert frame.span_ns > 0


def test_header_in_pieces_is_put_together(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    incoming = receiver(far)
    whole = seal(raw(3), 9) + b"abc"

    def trickle() -> None:
        for position in range(len(whole)):
            near.send(whole[position : position + 1])

    thread = threading.Thread(target=trickle)
    thread.start()
    frame = incoming.receive(timeout_ns=SECOND_NS)
    thread.join()
    assert (bytes(frame.payload), frame.query) == (b"abc", 9)


@pytest.mark.parametrize(
    ("sent", "error", "reason"),
    [
        (seal(raw(400_001)), BadFrame, "expected one of"),
        (seal(raw(2**63)), BadFrame, "expected one of"),
        (seal(raw(1)) + b"ab", BadFrame, "expected one of"),
        (seal(raw(1))[:-1] + b"\0", BadFrame, "checksum"),
        (b"HTTP" * (HEADER_BYTES // 4), BadFrame, "magic"),
        (seal(b"SPLT\x09" + raw(0)[5:]), BadFrame, "version"),
        (seal(raw(0)[:12] + b"\x07\0" + raw(0)[14:]), BadFrame, "dimensions"),
    ],
)
def test_receiver_refuses(
    pair: tuple[socket.socket, socket.socket], sent: bytes, error: type[Exception], reason: str
) -> None:
    near, far = pair
    near.sendall(sent)
    with pytest.raises(error, match=reason):
        receiver(far).receive(timeout_ns=SECOND_NS)


def test_peer_that_stops_or_leaves(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    near.sendall(seal(raw(100)) + b"some")
    with pytest.raises(PeerTimeout):
        receiver(far, 20_000_000).receive(timeout_ns=SECOND_NS)
    near.sendall(seal(raw(100)) + b"some")
    near.close()
    with pytest.raises(PeerGone):
        receiver(far).receive(timeout_ns=SECOND_NS)


def test_send_to_a_peer_that_takes_nothing_times_out(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, _ = pair
    configure(near, 50_000_000, None)
    with pytest.raises(PeerTimeout, match="send"):
        send(near, seal(raw(1)), bytes(30_000_000), timeout_ns=50_000_000)


@pytest.mark.parametrize("features", ["float32", "float16"])
def test_encoding_crosses_as_announced(features: str) -> None:
    known = layouts(TABLE, ("offload", "0"), {"input": "uint8", "features": features}, 2)
    encoder = Encoder(known)
    tensor = torch.randn(2, 4, 4, 4).transpose(1, 2)
    assert not tensor.is_contiguous()
    received = aligned_buffer(known["0"].payload_bytes)
    received[:] = encoder.encode("0", tensor)
    decoder = Decoder(known.values())
    decoded = decoder.decode(known["0"], received)
    assert decoded.dtype == torch.float32
    assert torch.equal(decoded, tensor.to(getattr(torch, features)).float())
    if features == "float32":
        assert decoded.data_ptr() == tensor_view(received, Dtype.UINT8, (1,)).data_ptr()
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    view = encoder.encode("offload", pixels)
    assert torch.equal(decoder.decode(known["offload"], view), pixels)


class Server:
    """A real service on loopback whose tail is a sum, run as the server role runs it."""

    def __init__(self, congestion_control: str | None = None) -> None:
        self.decoder = Decoder(LAYOUTS.values())
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.service = Service(
            Terms("secret", tuple(LAYOUTS.values()), OUTPUTS, True, congestion_control),
            self.events.put,
        )
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=run) for run in (self.accept, self.execute)]
        for thread in self.threads:
            thread.start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                self.service.admit(self.listener.accept()[0], "peer")

    def execute(self) -> None:
        while (job := self.service.jobs.get()) is not None:
            if job.layout is not None:
                job.logits.fill_(float(self.decoder.decode(job.layout, job.received).sum()))
            job.finished.put(job)

    def endpoint(self, token: str = "secret") -> Endpoint:
        return Endpoint("127.0.0.1", self.port, token, SECOND_NS, None)

    def event(self, name: str) -> dict[str, Any]:
        while (event := self.events.get(timeout=5))["event"] != name:
            pass
        return event

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.service.jobs.put(None)
        for thread in self.threads:
            thread.join()
        self.service.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with closing(Server()) as running:
        yield running


def answers(server: Server) -> bool:
    with closing(Connection(server.endpoint(), OUTPUTS)) as connection:
        payload = memoryview(struct.pack("<64f", *(64 * [1.0])))
        reply = connection.query(11, LAYOUTS["0"], payload)
        return struct.unpack("<5f", reply.logits) == (64.0,) * 5


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
