"""What a host is: printed as one JSON line. Runs on any Python 3.7, so that 3.10 can be asked for.

``facts.py '{"pid": 123, "own": [123], "sudo": true, "watch_s": 0.5}'``: the process whose cgroup
limits are wanted, those whose CPU time is (with their children's), whether to try ``sudo``, and how
long to watch what else runs here; all optional.
"""

from __future__ import annotations

import array
import fcntl
import glob
import json
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

SIOCGIFCONF = 0x8912  # linux/sockios.h: all IPv4 addresses with their interfaces
IFREQ_BYTES = 40 if sys.maxsize > 2**32 else 32
COMMAND_TIMEOUT_S = 10
WINDOWS = 5  # the median of so many: this script's own start is in the first of them
RTM_NEWQDISC, RTM_GETQDISC, NLM_F_DUMP = 36, 38, 0x301  # linux/rtnetlink.h
TC_H_ROOT, TCA_KIND = 0xFFFFFFFF, 1  # linux/pkt_sched.h, linux/rtnetlink.h
SYSCTLS = (
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.core.default_qdisc",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_available_congestion_control",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_no_metrics_save",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.ip_forward",
)


def read(path: str) -> str | None:
    """The file's text, or None where the kernel has no such file."""
    try:
        with open(path) as stream:
            return stream.read().strip()
    except OSError:
        return None


def search(pattern: str, text: str | None) -> str | None:
    """The pattern's first group in the text."""
    match = re.search(pattern, text or "", re.MULTILINE)
    return match.group(1).strip() if match else None


def command(*argv: str) -> str | None:
    """Output of a command, or None where it is missing or fails."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def version_of(package: str) -> str | None:
    """Installed version, without importing the package (torch takes seconds)."""
    try:
        from importlib import metadata

        return metadata.version(package)
    except ImportError:  # PackageNotFoundError is one; Python 3.7 has no importlib.metadata
        return None


def ticks() -> list[int]:
    """user nice system idle iowait irq softirq steal, over all CPUs since boot."""
    # guest time is in user already
    return [int(word) for word in (read("/proc/stat") or "").split("\n")[0].split()[1:9]]


def busy_share(watch_s: float) -> float | None:
    """Share of CPU time that is in use now, the median of a few windows; None unwatched."""
    shares, before = [], ticks()
    for _ in range(WINDOWS if watch_s else 0):
        time.sleep(watch_s / WINDOWS)
        after = ticks()
        spent = [now - was for now, was in zip(after, before)]  # noqa: B905 (Python 3.7)
        shares.append(1 - (spent[3] + spent[4] + spent[7]) / (sum(spent) or 1))
        before = after
    return sorted(shares)[len(shares) // 2] if shares else None


def own_ticks(pids: Sequence[int]) -> int:
    """CPU time of these processes and of all that descend from them, ended or not."""
    spent, children = {}, {}  # type: dict[int, int], dict[int, list[int]]
    for path in glob.glob("/proc/[0-9]*/stat") if pids else ():
        # Behind the name in brackets, which may hold anything, come the fields from the third on.
        words = (read(path) or "").rpartition(")")[2].split()
        if words:
            pid = int(path.split("/")[2])
            children.setdefault(int(words[1]), []).append(pid)
            spent[pid] = sum(map(int, words[11:15]))
    total, waiting = 0, list(pids)
    while waiting:
        pid = waiting.pop()
        total += spent.get(pid, 0)
        waiting += children.get(pid, [])
    return total


def hertz(path: str) -> int | None:
    """A file of kilohertz in hertz."""
    khz = read(path)
    return int(khz) * 1000 if khz else None


def celsius() -> float | None:
    """The hottest sensor's temperature; None where there is none."""
    told = [read(path) for path in glob.glob("/sys/class/thermal/thermal_zone*/temp")]
    return max((int(value) / 1000 for value in told if value), default=None)


def processor(own: Sequence[int]) -> dict[str, Any]:
    """Model, count, governor and frequencies of the CPU, its ticks since boot, and when."""
    info = read("/proc/cpuinfo")
    policy = "/sys/devices/system/cpu/cpu0/cpufreq/"
    mhz = search(r"^cpu MHz\s*:\s*([0-9.]+)", info)
    board = (read("/proc/device-tree/model") or "").rstrip("\0")
    told_hz = round(float(mhz) * 1e6) if mhz else None
    spent, t_ns = ticks(), time.monotonic_ns()
    return {
        "cpu_model": search(r"^(?:model name|Model)\s*:\s*(.+)$", info) or board or None,
        "cpu_count": os.cpu_count(),
        "governor": read(policy + "scaling_governor"),
        "frequency_hz": hertz(policy + "scaling_cur_freq") or told_hz,
        "frequency_min_hz": hertz(policy + "scaling_min_freq"),
        "frequency_max_hz": hertz(policy + "scaling_max_freq"),
        "celsius": celsius(),
        "ticks_per_s": os.sysconf("SC_CLK_TCK"),
        "idle_ticks": spent[3] + spent[4],
        "irq_ticks": spent[5] + spent[6],
        "steal_ticks": spent[7],
        "own_ticks": own_ticks(own),
        "t_ns": t_ns,
        "load_average": list(os.getloadavg()),
    }


def memory() -> dict[str, Any]:
    """Bytes of memory, in all and available."""
    info = read("/proc/meminfo")
    fields = {"memory_bytes": "MemTotal", "memory_available_bytes": "MemAvailable"}
    kib = {name: search(rf"^{key}:\s*(\d+)", info) for name, key in fields.items()}
    return {name: int(value) * 1024 if value else None for name, value in kib.items()}


def cgroup(pid: int | None) -> dict[str, str]:
    """CPU limits in force for the process, by file name; version 1 and 2 of the interface."""
    limits = {}
    memberships = read(f"/proc/{pid}/cgroup") if pid is not None else None
    for line in (memberships or "").splitlines():
        _, controllers, path = line.split(":", 2)
        for folder in controllers.split(",") if controllers else ("",):
            for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpuset.cpus"):
                value = read(os.path.join("/sys/fs/cgroup", folder, path.lstrip("/"), name))
                if value:
                    limits[name] = value
    return limits


def interfaces() -> dict[str, list[str]]:
    """Addresses of each interface, IPv4 from the kernel's list and IPv6 from /proc."""
    found = {name: [] for _, name in socket.if_nameindex()}  # type: dict[str, list[str]]
    buffer = array.array("B", bytes(IFREQ_BYTES * 256))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("iP", len(buffer), buffer.buffer_info()[0])
        filled_bytes, _ = struct.unpack("iP", fcntl.ioctl(sock, SIOCGIFCONF, request))
    for start in range(0, filled_bytes, IFREQ_BYTES):
        name = bytes(buffer[start : start + 16]).split(b"\0")[0].decode().split(":")[0]
        found.setdefault(name, []).append(socket.inet_ntoa(bytes(buffer[start + 20 : start + 24])))
    for line in (read("/proc/net/if_inet6") or "").split("\n"):
        if line:
            digits, *_, name = line.split()
            packed = bytes.fromhex(digits)
            found.setdefault(name, []).append(socket.inet_ntop(socket.AF_INET6, packed))
    return found


def qdiscs() -> dict[str, str]:
    """The root qdisc's kind of each interface, from the kernel: ``tc`` may be missing."""
    names, found = dict(socket.if_nameindex()), {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        # struct nlmsghdr, then struct tcmsg of zeros: every interface
        sock.send(struct.pack("IHHII20x", 36, RTM_GETQDISC, NLM_F_DUMP, 1, 0))
        kind = RTM_NEWQDISC
        while kind == RTM_NEWQDISC:
            data = sock.recv(1 << 16)
            while data:
                size, kind = struct.unpack_from("IH", data)
                if kind != RTM_NEWQDISC:
                    break
                index, _, parent = struct.unpack_from("iII", data, 20)
                length, attribute = struct.unpack_from("HH", data, 36)
                if parent == TC_H_ROOT and attribute == TCA_KIND:
                    name = names.get(index, str(index))
                    found[name] = data[40 : 36 + length].rstrip(b"\0").decode()
                data = data[(size + 3) & ~3 :]
    return found


def ssh_interfaces(addresses: dict[str, list[str]]) -> list[str]:
    """Interfaces on which this SSH session comes in, and on which the kernel answers it."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    if len(words) != 4:
        return []
    client, port, ours = words[0], int(words[1]), {words[2]}
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((client, port))  # sends nothing: asks the kernel for the route
        ours.add(sock.getsockname()[0])
    return sorted(name for name, own in addresses.items() if ours & set(own))


def free_bytes() -> int:
    """Free disk where the cache folder is or will be."""
    path = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free


def facts(
    pid: int | None = None, own: Sequence[int] = (), sudo: bool = False, watch_s: float = 0.0
) -> dict[str, Any]:
    """Everything about the host that a reader of its results would ask."""
    busy = busy_share(watch_s)
    addresses = interfaces()
    known = {name: read("/proc/sys/" + name.replace(".", "/")) for name in SYSCTLS}
    gpus = command("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    return dict(
        processor(own),
        **memory(),
        hostname=platform.node(),
        boot_id=read("/proc/sys/kernel/random/boot_id"),
        machine=platform.machine(),
        kernel=platform.release(),
        os=(search(r'^PRETTY_NAME="?([^"\n]+)', read("/etc/os-release"))),
        python=platform.python_version(),
        torch=version_of("torch"),
        sysctls={name: value for name, value in known.items() if value is not None},
        cgroup=cgroup(pid),
        busy_share=busy,
        qdiscs=qdiscs(),
        gpus=gpus.split("\n") if gpus else [],
        interfaces=addresses,
        ssh_interfaces=ssh_interfaces(addresses),
        disk_free_bytes=free_bytes(),
        root=os.geteuid() == 0,
        sudo=command("sudo", "-n", "true") is not None if sudo else None,
    )


if __name__ == "__main__":
    print(json.dumps(facts(**json.loads(sys.argv[1]))))
