"""Time the wire against a bare socket loop, gRPC and ZeroMQ.

One float32 tensor goes to another process over loopback and comes back whole: its raw bytes,
with no encoding and no tail on any side, so that only the framing and the sockets differ. Ours
is the device's own connection against the server's receiver, with header checks, timing of the
arrival and the reply's struct, and with the next headers made ahead after each reply, as the
server does. Exchanges of the four are interleaved in one run; medians over several sets of fresh
processes, because where the buffers of one lie in memory stays with it and is worth a factor of 1.6
where they just fill the processor's cache (300 kB on this kind of machine, ours and bare alike).

Client and server are held on one processor each where there are two: which of them share one is
otherwise the scheduler's mood, and worth a factor of eight to a small message (two processes on one
processor hand over without waking another, which two hosts never can).

``python -m tests.bench.wire`` writes ``bench.json`` and prints the ratios.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

import torch

from testbed.encodings import parse_features
from testbed.worker.client import Connection, Endpoint
from testbed.worker.encoding import aligned_buffer
from testbed.worker.layout import REPLY_BYTES, Allowed, Layout, pack_times, reply_header
from testbed.worker.transfer import Receiver, configure, mark_bytes, send
from testbed.worker.wire import (
    HEADER_BYTES,
    MAX_TEXT_BYTES,
    BadFrame,
    Header,
    Kind,
    PeerGone,
    describe,
    seal,
)

SIZES_BYTES = (5_000, 300_000, 1_200_000)
NAMES = ("ours", "bare", "grpc", "zmq")
SETS, ROUNDS, TURNS, WARM = 5, 3, 20, 20
NO_DIGEST = bytes(32)
TIMEOUT_NS = 10_000_000_000
METHOD = "/bench/echo"
GRPC_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
Echo = Callable[[], object]
FORK = get_context("fork")  # nothing is imported again; whoever reads a pipe closes its other end


def layout_of(size_bytes: int) -> Layout:
    return Layout("0", 0, parse_features("float32"), ((1, size_bytes // 4),))


def accept_one(announce: Callable[[int], None]) -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        announce(listener.getsockname()[1])
        return listener.accept()[0]


def serve_ours(size_bytes: int, announce: Callable[[int], None]) -> None:
    sock = accept_one(announce)
    configure(sock, TIMEOUT_NS, None)

    def token(header: Header) -> None:
        if header.kind != Kind.TOKEN or header.payload_bytes > MAX_TEXT_BYTES:
            raise BadFrame("no token")

    buffer = aligned_buffer(HEADER_BYTES + size_bytes)
    Receiver(sock, buffer, token).receive(timeout_ns=TIMEOUT_NS)
    send(sock, seal(describe(reply_header(0))), timeout_ns=TIMEOUT_NS)
    receiver = Receiver(sock, buffer, Allowed([layout_of(size_bytes)]))
    description = describe(reply_header(REPLY_BYTES + size_bytes))
    while True:
        try:
            frame = receiver.receive(timeout_ns=TIMEOUT_NS, mark_bytes=mark_bytes(0), idle=True)
        except PeerGone:
            return
        meta = pack_times(0, 0, 0, frame.span_bytes, frame.span_ns, NO_DIGEST)
        header = seal(description, frame.query)
        send(sock, header, frame.payload, meta, timeout_ns=TIMEOUT_NS)
        receiver.expect(frame.query + 1)
        seal(description, frame.query + 1)


def receive_bare(sock: socket.socket, view: memoryview) -> bool:
    got = 0
    while got < len(view):
        count = sock.recv_into(view[got:])
        if not count:
            return False
        got += count
    return True


def serve_bare(size_bytes: int, announce: Callable[[int], None]) -> None:
    sock = accept_one(announce)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    view = memoryview(bytearray(size_bytes))
    while receive_bare(sock, view):
        sock.sendall(view)


def serve_grpc(size_bytes: int, announce: Callable[[int], None]) -> None:
    import grpc

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Handler()], options=GRPC_OPTIONS)
    announce(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()


def serve_zmq(size_bytes: int, announce: Callable[[int], None]) -> None:
    import zmq

    sock = zmq.Context.instance().socket(zmq.REP)
    announce(sock.bind_to_random_port("tcp://127.0.0.1"))
    while message := sock.recv():
        sock.send(message)


def client_ours(port: int, payload: memoryview) -> Echo:
    layout = layout_of(len(payload))
    endpoint = Endpoint("127.0.0.1", port, "token", TIMEOUT_NS, None)
    connection = Connection(endpoint, len(payload) // 4)
    numbers = count(1)
    return lambda: connection.query(next(numbers), layout, payload)


def client_bare(port: int, payload: memoryview) -> Echo:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    view = memoryview(bytearray(len(payload)))

    def echo() -> None:
        sock.sendall(payload)
        receive_bare(sock, view)

    return echo


def client_grpc(port: int, payload: memoryview) -> Echo:
    import grpc

    call = grpc.insecure_channel(f"127.0.0.1:{port}", options=GRPC_OPTIONS).unary_unary(METHOD)
    return lambda: call(bytes(payload))


def client_zmq(port: int, payload: memoryview) -> Echo:
    import zmq

    sock = zmq.Context.instance().socket(zmq.REQ)
    sock.connect(f"tcp://127.0.0.1:{port}")

    def echo() -> None:
        sock.send(payload)
        sock.recv()

    return echo


def serve(name: str, size_bytes: int, processor: int, announce: Callable[[int], None]) -> None:
    os.sched_setaffinity(0, [processor])
    globals()[f"serve_{name}"](size_bytes, announce)


def exchange(size_bytes: int, tell: Callable[[dict[str, list[int]]], None]) -> None:
    """Tell the round trips of each in nanoseconds, exchanges taken in turns."""
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, processors[:1])
    servers, clients = [], {}
    buffer = aligned_buffer(size_bytes)
    try:
        for name in NAMES:
            heard, told = FORK.Pipe(duplex=False)
            arguments = (name, size_bytes, processors[-1], told.send)
            servers.append(FORK.Process(target=serve, args=arguments))
            servers[-1].start()
            told.close()
            clients[name] = globals()[f"client_{name}"](heard.recv(), buffer)
        torch.frombuffer(buffer, dtype=torch.float32).normal_()
        times: dict[str, list[int]] = {name: [] for name in NAMES}
        for _ in range(ROUNDS):
            for name, echo in clients.items():
                # The first exchanges after a change of server find cold caches and a small window.
                for turn in range(WARM + TURNS):
                    begun_ns = perf_counter_ns()
                    echo()
                    if turn >= WARM:
                        times[name].append(perf_counter_ns() - begun_ns)
    finally:
        for server in servers:
            server.kill()
    tell(times)


def measure(size_bytes: int) -> dict[str, float]:
    """Median round trip of each in microseconds, over all sets of processes."""
    times: dict[str, list[int]] = {name: [] for name in NAMES}
    for _ in range(SETS):
        heard, told = FORK.Pipe(duplex=False)
        process = FORK.Process(target=exchange, args=(size_bytes, told.send))
        process.start()
        told.close()
        for name, found in heard.recv().items():
            times[name] += found
        process.join()
    result: dict[str, float] = {f"{n}_us": median(t) / 1000 for n, t in times.items()}
    return {**result, "n": len(times[NAMES[0]])}


def main() -> None:
    wire = {str(size): measure(size) for size in SIZES_BYTES}
    Path("bench.json").write_text(json.dumps({"wire": wire}, indent=1) + "\n")
    print(f"{'bytes':>9} {'n':>5}" + "".join(f"{name + ' µs':>12}" for name in NAMES) + "  / bare")
    for size, row in wire.items():
        columns = "".join(f"{row[name + '_us']:12.1f}" for name in NAMES)
        ratios = "  ".join(f"{name} {row[name + '_us'] / row['bare_us']:.2f}" for name in NAMES)
        print(f"{size:>9} {row['n']:>5}{columns}  {ratios}")


if __name__ == "__main__":
    main()
