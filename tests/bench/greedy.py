"""UDP that offers more than the link carries, and the moment at which each packet came out of it.

``python -m tests.bench.greedy receive ADDRESS`` prints its port, and on TERM the arrivals: a line
``{"dropped"}`` of what its own socket lost, then times in ns of the monotonic clock as 64-bit
integers. ``... send ADDRESS PORT RATE_BPS SECONDS`` prints a line, then sends packets of 1500 IP
bytes.
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import sys
import time
from array import array
from contextlib import suppress
from functools import partial

from testbed.framing import MTU_BYTES
from testbed.lab.network import in_namespace
from testbed.link.prober import SO_RCVBUFFORCE, SO_TIMESTAMPNS, TIMESPEC, UDP_PAYLOAD_BYTES

BUFFER_BYTES = 1 << 24
PACE_S = 0.001
SO_MEMINFO, DROPS = 55, 8  # asm-generic/socket.h; place in linux/sock_diag.h


def send(address: str, port: int, rate_bps: float, seconds: float) -> None:
    """Send at a rate, in a lump each millisecond."""
    gap_s, payload = MTU_BYTES * 8 / rate_bps, bytes(UDP_PAYLOAD_BYTES)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect((address, port))
        print("sending", flush=True)
        begun_s, sent = time.monotonic(), 0
        while (now_s := time.monotonic() - begun_s) < seconds:
            for _ in range(int(now_s / gap_s) - sent):
                with suppress(ConnectionRefusedError):  # the receiver has ended already
                    udp.send(payload)
                sent += 1
            time.sleep(PACE_S)


def receive(address: str) -> None:
    """Note the kernel's time of every arrival until TERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stamps, room = array("q"), socket.CMSG_SPACE(TIMESPEC.size)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        udp.bind((address, 0))
        print(udp.getsockname()[1], flush=True)
        first = _clocks()
        with suppress(KeyboardInterrupt):
            while True:
                _, extra, _, _ = udp.recvmsg(64, room)
                seconds, nanoseconds = TIMESPEC.unpack(extra[0][2])
                stamps.append(seconds * 10**9 + nanoseconds)
        dropped = struct.unpack_from("9I", udp.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[DROPS]
    last = _clocks()
    print(json.dumps({"dropped": dropped}), flush=True)
    sys.stdout.buffer.write(array("q", _monotonic(stamps, first, last)).tobytes())


def _clocks() -> tuple[int, int]:
    return time.time_ns(), time.monotonic_ns()


def _monotonic(stamps: array[int], first: tuple[int, int], last: tuple[int, int]) -> list[int]:
    """Kernel stamps are of the wall clock, which is being steered: between two readings."""
    pace = (last[1] - first[1]) / (last[0] - first[0])
    return [first[1] + round((stamp - first[0]) * pace) for stamp in stamps]


class Stream:
    """A greedy sender in one namespace, a receiver in another; a context manager."""

    def __init__(self, sender: str, receiver: str, address: str, rate_bps: float, seconds: float):
        self._receiver = _start(receiver, "receive", address)
        assert self._receiver.stdout is not None
        port = self._receiver.stdout.readline().decode().strip()
        self._sender = _start(sender, "send", address, port, str(rate_bps), str(seconds))
        assert self._sender.stdout is not None
        self._sender.stdout.readline()  # a busy machine takes long to start it

    def arrivals_ns(self) -> list[int]:
        """End it; every packet's arrival. Raises RuntimeError where the receiver lost some."""
        self._sender.kill()
        self._receiver.terminate()
        told, _, packed = self._receiver.communicate(timeout=30)[0].partition(b"\n")
        if dropped := json.loads(told)["dropped"]:
            raise RuntimeError(f"the receiver's own socket dropped {dropped} packets")
        return list(array("q", packed))

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in (self._sender, self._receiver):
            process.kill()
            process.communicate()


def _start(namespace: str, *arguments: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "tests.bench.greedy", *arguments]
    return in_namespace(namespace, partial(subprocess.Popen, argv, stdout=subprocess.PIPE))


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2])
    else:
        send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
