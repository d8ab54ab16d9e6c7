"""The probers' arithmetic, and two of them as processes over loopback."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from testbed import framing
from testbed.link.prober import tcp_rate_bps, udp_rate_bps

GAP_NS = 1_200_000  # full-size packets at 10 Mbit/s of IP bytes
MBIT = 10**6


def test_udp_rate_leaves_the_bucket_out() -> None:
    at_once = [1000] * 5
    paced = [1000 + n * GAP_NS for n in range(1, 101)]
    assert udp_rate_bps(at_once + paced, skip=5) == pytest.approx(10 * MBIT)
    assert udp_rate_bps(at_once + paced, skip=0) > 10.3 * MBIT


@pytest.mark.parametrize("arrivals", [[], [5], [5, 5], [5, 6, 7]])
def test_too_few_packets_have_no_rate(arrivals: list[int]) -> None:
    assert udp_rate_bps(arrivals, skip=2) is None


def test_tcp_rate_is_of_the_later_half_and_counts_headers() -> None:
    slow = [(n * GAP_NS, 100 * n) for n in range(100)]
    begin_ns, sent = slow[-1]
    fast = [(begin_ns + n * GAP_NS, sent + n * framing.MSS_BYTES) for n in range(1, 101)]
    assert tcp_rate_bps(slow + fast) == pytest.approx(10 * MBIT)
    assert tcp_rate_bps(fast[:1]) is None
    assert tcp_rate_bps([(5, 1), (5, 2)]) is None


class Prober:
    """A prober's process and our end of its protocol; ``port`` is its data socket's."""

    port = 0

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "testbed.link.prober"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.expect("hello")

    def send(self, kind: str, /, **fields: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({**fields, "type": kind}).encode() + b"\n")
        self.process.stdin.flush()

    def expect(self, kind: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        message: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert message["type"] == kind, message
        return message

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        assert self.process.wait(timeout=10) == 0
        self.process.stdout.close()


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Prober, Prober]]:
    """The device's and the server's prober, met."""
    with ExitStack() as stack:
        device, server = Prober(), Prober()
        stack.callback(device.close)
        stack.callback(server.close)
        setup = {"token": "ab" * 16, "address": "127.0.0.1"}
        server.send("setup", port=0, **setup)
        server.port = server.expect("ready")["port"]
        peer = {"address": "127.0.0.1", "port": server.port}
        device.send("setup", peer=peer, **setup)
        device.port = device.expect("ready")["port"]
        server.send("meet")
        device.send("meet")
        device.expect("met")
        server.expect("met")
        yield device, server


@pytest.mark.parametrize("direction", ["uplink", "downlink"])
def test_udp_and_tcp_pass_both_ways(pair: tuple[Prober, Prober], direction: str) -> None:
    sender, receiver = pair if direction == "uplink" else pair[::-1]
    receiver.send("receive", kind="udp", test=1, packets=50, skip=5, idle_ns=10**9)
    sender.send("send", kind="udp", test=1, packets=50, rate_bps=50 * MBIT)
    assert sender.expect("sent")["packets"] == 50
    received = receiver.expect("received")
    assert received["packets"] == 50
    assert received["rate_bps"] > 0
    receiver.send("receive", kind="tcp", test=2)
    sender.send("send", kind="tcp", test=2, duration_ns=20_000_000, window_bytes=None)
    assert sender.expect("sent")["bytes"] == receiver.expect("received")["bytes"] > 0


def test_every_ping_comes_back_and_the_echo_ends_when_told(pair: tuple[Prober, Prober]) -> None:
    device, server = pair
    for test in (3, 4):
        server.send("echo", test=test)
        device.send("ping", test=test, count=20, interval_ns=1_000_000, timeout_ns=5 * 10**9)
        pinged = device.expect("pinged")
        assert pinged["sent"] == len(pinged["rtts_ns"]) == 20
        assert min(pinged["rtts_ns"]) > 0
        server.send("stop")
        assert server.expect("echoed")["packets"] == 20


def test_another_tests_packets_are_not_counted(pair: tuple[Prober, Prober]) -> None:
    device, server = pair
    device.send("send", kind="udp", test=8, packets=5, rate_bps=50 * MBIT)
    device.expect("sent")
    server.send("receive", kind="udp", test=9, packets=3, skip=0, idle_ns=10**8)
    device.send("send", kind="udp", test=9, packets=3, rate_bps=50 * MBIT)
    device.expect("sent")
    assert server.expect("received")["packets"] == 3


def test_strangers_are_turned_away(pair: tuple[Prober, Prober]) -> None:
    device, server = pair
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for packet in (b"", b"x", bytes(64)):  # too short for a header, and without the token
            stranger.sendto(packet, ("127.0.0.1", device.port))
            stranger.sendto(packet, ("127.0.0.1", server.port))
    server.send("echo", test=10)
    device.send("ping", test=10, count=5, interval_ns=1_000_000, timeout_ns=5 * 10**9)
    assert len(device.expect("pinged")["rtts_ns"]) == 5
    server.send("stop")
    server.expect("echoed")
    with socket.create_connection(("127.0.0.1", server.port)) as stranger:
        # Closed with a reset (socket(7), SO_LINGER).
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.send("receive", kind="tcp", test=11)
    device.send("send", kind="tcp", test=11, duration_ns=1_000_000, window_bytes=None)
    assert device.expect("sent")["bytes"] == server.expect("received")["bytes"]
