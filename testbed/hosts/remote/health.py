"""How fit a host is right now: printed as one JSON line. Runs on any Python 3.7.

``health.py '{"interfaces": ["eth0"], "bind": ["10.0.0.1", 7010], "sample_s": 1.0}'``: which
interfaces to look at, an address and TCP port that must be free (or null), and how long to watch
the CPU.
"""

from __future__ import annotations

import ctypes
import fcntl
import glob
import json
import socket
import struct
import subprocess
import sys
import time
from typing import Any

SIOCGIFFLAGS, SIOCGIFMTU, SIOCETHTOOL = 0x8913, 0x8921, 0x8946  # linux/sockios.h
IFF_RUNNING = 0x40  # linux/if.h
ETHTOOL_GSET = 0x1
OFFLOADS = {"tso": 0x1E, "gso": 0x23, "gro": 0x2B}  # linux/ethtool.h: ETHTOOL_GTSO, GGSO, GGRO


def read(path: str) -> str | None:
    """The file's text, or None where the kernel has no such file or no value."""
    try:
        with open(path) as stream:
            return stream.read().strip()
    except OSError:
        return None


def number(text: str | None) -> int | None:
    """The text as an integer, None where it is none."""
    try:
        return int(text or "")
    except ValueError:
        return None


def ask(interface: str, command: int, argument: bytes = bytes(24)) -> bytes | None:
    """An interface's answer to an ioctl (struct ifreq), None where it has none.

    Not from /sys: in a network namespace that shows the links of the namespace it was mounted in.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            return fcntl.ioctl(sock, command, struct.pack("16s24s", interface.encode(), argument))
        except OSError:
            return None


def ethtool(interface: str, command: int, size: int) -> bytes | None:
    """The answer to an ethtool command, its own number at the front."""
    value = ctypes.create_string_buffer(struct.pack("I", command), size)
    address = struct.pack("P", ctypes.addressof(value))
    return value.raw if ask(interface, SIOCETHTOOL, address) is not None else None


def speed_mbps(interface: str) -> int | None:
    """Negotiated speed, from struct ethtool_cmd's two halves."""
    told = ethtool(interface, ETHTOOL_GSET, 44)
    if told is None:
        return None
    low, high = struct.unpack_from("H", told, 12)[0], struct.unpack_from("H", told, 28)[0]
    return (high << 16 | low) if (high, low) != (0xFFFF, 0xFFFF) else None


def offload(interface: str, command: int) -> bool | None:
    """Whether an offload is on."""
    told = ethtool(interface, command, 8)
    return None if told is None else bool(struct.unpack("II", told)[1])


def link(interface: str) -> dict[str, Any] | None:
    """MTU, speed, state and offloads of an interface; None where there is none."""
    mtu, flags = ask(interface, SIOCGIFMTU), ask(interface, SIOCGIFFLAGS)
    if mtu is None or flags is None:
        return None
    running = bool(struct.unpack_from("H", flags, 16)[0] & IFF_RUNNING)
    return {
        "mtu": struct.unpack_from("i", mtu, 16)[0],
        "speed_mbps": speed_mbps(interface),
        "state": "up" if running else "down",
        "offloads": {name: offload(interface, command) for name, command in OFFLOADS.items()},
    }


def ticks() -> list[int]:
    """user nice system idle iowait irq softirq steal, over all CPUs since boot."""
    return [int(word) for word in (read("/proc/stat") or "").split("\n")[0].split()[1:9]]


def throttle_count() -> int | None:
    """How often the CPU slowed itself down for heat, as x86 counts it; None elsewhere."""
    paths = glob.glob("/sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")
    counts = [number(read(path)) for path in paths]
    return sum(count or 0 for count in counts) if counts else None


def board_throttled() -> str | None:
    """What a Raspberry Pi says of under-voltage and heat, such as ``0x0``."""
    try:
        done = subprocess.run(
            ["vcgencmd", "get_throttled"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode().strip().split("=")[-1] if done.returncode == 0 else None


def bindable(place: list[Any] | None) -> str | None:
    """Why an address and TCP port cannot be bound, or None where they can (or none are asked)."""
    if place is None:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((place[0], place[1]))
        except OSError as error:
            return error.strerror
    return None


def health(interfaces: list[str], bind: list[Any] | None, sample_s: float) -> dict[str, Any]:
    """Everything about the host's present state that could disturb a measurement."""
    before, throttled = ticks(), throttle_count()
    time.sleep(sample_s)
    spent = [after - was for after, was in zip(ticks(), before)]  # noqa: B905 (Python 3.7)
    total = sum(spent) or 1
    now = throttle_count()
    celsius = [number(read(path)) for path in glob.glob("/sys/class/thermal/thermal_zone*/temp")]
    return {
        "links": {name: link(name) for name in interfaces},
        "busy_share": 1 - (spent[3] + spent[4] + spent[7]) / total,
        "steal_share": spent[7] / total,
        "throttled": None if now is None or throttled is None else now - throttled,
        "board_throttled": board_throttled(),
        "celsius": max((value / 1000 for value in celsius if value), default=None),
        "bind_fault": bindable(bind),
    }


if __name__ == "__main__":
    print(json.dumps(health(**json.loads(sys.argv[1]))))
