"""The wire: what may come in, what is refused and why, and what the arrival tells."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from testbed.worker.encoding import Decoder, Encoder, aligned_buffer, tensor_view
from testbed.worker.layout import layouts
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
from tests.unit.loopback_server import LAYOUTS, TABLE

SECOND_NS = 10**9


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


def test_a_frame_that_was_expected_and_any_other(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    incoming = receiver(far)
    # The last id there is, too: the one expected after it is the first.
    for size, query in ((3, 7), (3, 8), (3, 5), (2, 6), (2, 7), (3, 2**64 - 1), (3, 0), (3, 1)):
        near.sendall(seal(raw(size), query) + b"abc"[:size])
        frame = incoming.receive(timeout_ns=SECOND_NS)
        assert (bytes(frame.payload), frame.query) == (b"abc"[:size], query)
        assert frame.header == understand(raw(size))
        incoming.expect(query + 1)
    near.sendall(seal(raw(3), 2)[:-1] + b"\0" + b"abc")
    with pytest.raises(BadFrame, match="checksum"):
        incoming.receive(timeout_ns=SECOND_NS)


def test_what_is_not_allowed_is_not_expected_either(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair

    def refuse(header: Header) -> None:
        raise BadFrame("not allowed")

    configure(far, SECOND_NS, None)
    incoming = Receiver(far, aligned_buffer(HEADER_BYTES + 3), refuse)
    for query in (1, 2):
        near.sendall(seal(raw(3), query) + b"abc")
        with pytest.raises(BadFrame, match="not allowed"):
            incoming.receive(timeout_ns=SECOND_NS)
        incoming.expect(query + 1)


@pytest.mark.parametrize(
    ("sent", "error", "reason"),
    [
        (seal(raw(400_001)), BadFrame, "expected at most"),
        (seal(raw(2**63)), BadFrame, "expected at most"),
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
