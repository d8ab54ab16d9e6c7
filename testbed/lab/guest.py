"""First process of a user-mode Linux router: mounts, modules, addresses, then its sshd.

It runs inside the guest as ``python guest.py FILE`` and starts no program before sshd: a fork and
an exec cost fifty times what they cost outside. Standard library only.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

_MS_BIND = 4096
_SYS_FINIT_MODULE = 313  # x86-64, the only architecture that user-mode Linux has
# linux/sockios.h, linux/if.h
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFNAME = 0x8913, 0x8914, 0x8923
_SIOCSIFADDR, _SIOCSIFNETMASK = 0x8916, 0x891C
_SIOCETHTOOL, _ETHTOOL_SFEATURES, _GSO = 0x8946, 0x3B, 1 << 11  # NETIF_F_GSO
_IFF_UP = 1
_RB_POWER_OFF = 0x4321FEDC
_LIBC = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def mount(kind: str, target: str, data: str = "", flags: int = 0) -> None:
    """Mount a file system of a kind (or bind ``data``, with the flag) on an existing directory."""
    source = data if flags & _MS_BIND else kind
    arguments = [text.encode() for text in (source, target, kind)]
    options = data.encode() if data and not flags & _MS_BIND else None
    _check(_LIBC.mount(*arguments, ctypes.c_ulong(flags), options), f"mount {target}")


def insert_module(path: str) -> None:
    """Load one kernel module from its file."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_LIBC.syscall(_SYS_FINIT_MODULE, handle, b"", 0), f"insert {path}")
    finally:
        os.close(handle)


class Links:
    """Interfaces by the old ioctls, which need no library."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def _ask(self, request: int, name: str, value: bytes) -> bytes:
        field = struct.pack("16s24s", name.encode(), value)
        return fcntl.ioctl(self._socket, request, field)[16:]

    def rename(self, old: str, new: str) -> None:
        """Rename an interface that is down."""
        self._ask(_SIOCSIFNAME, old, new.encode())

    def address(self, name: str, address: str, mask: str) -> None:
        """Give an interface its one IPv4 address."""
        for request, text in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, mask)):
            self._ask(request, name, struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton(text)))

    def settle_features(self, name: str) -> None:
        """Have the kernel work the interface's offloads out.

        Once up, the driver has segmentation active although nobody wants it, until any change;
        what shaping turns off could then never be put back as it was.
        """
        for requested in (0, _GSO):
            # Blocks of 32 features each: which of them are meant, and what they are to be.
            value = struct.pack("6I", _ETHTOOL_SFEATURES, 2, _GSO, requested, 0, 0)
            buffer = ctypes.create_string_buffer(value, len(value))
            self._ask(_SIOCETHTOOL, name, struct.pack("Q", ctypes.addressof(buffer)))

    def up(self, name: str) -> None:
        """Bring an interface up."""
        (flags,) = struct.unpack_from("H", self._ask(_SIOCGIFFLAGS, name, b""))
        self._ask(_SIOCSIFFLAGS, name, struct.pack("H", flags | _IFF_UP))


def set_up(spec: dict[str, Any]) -> None:
    """Everything between the kernel's start and sshd's.

    The root file system is the machine's own, read-only; only the host's own folder is writable,
    so that nothing of the machine's is touched from here.
    """
    mount("proc", "/proc")
    mount("sysfs", "/sys")
    for directory in ("/dev/pts", "/dev/shm"):
        os.makedirs(directory, exist_ok=True)
    mount("devpts", "/dev/pts", "mode=620,ptmxmode=666")
    for directory in ("/run", "/var/log", "/var/tmp", "/dev/shm"):
        mount("tmpfs", directory)
    for directory in ("/run/sshd", "/run/netns", spec["run_dir"]):
        os.makedirs(directory, mode=0o755, exist_ok=True)
    mount("hostfs", spec["run_dir"], spec["run_dir"])
    for path in spec["modules"]:
        insert_module(path)
    for key, value in spec["sysctls"].items():
        path = Path("/proc/sys/net", key)
        if path.exists():
            path.write_text(value)
    links = Links()
    links.up("lo")
    for link in spec["links"]:
        links.rename(link["device"], link["name"])
        links.address(link["name"], link["address"], link["mask"])
        links.up(link["name"])
        links.settle_features(link["name"])


def main() -> None:
    """Set up, then become sshd; what fails ends the guest, with its reason on the console."""
    try:
        spec = json.loads(Path(sys.argv[1]).read_text())
        os.environ["PATH"] = spec["path"]
        socket.sethostname(spec["hostname"])
        set_up(spec)
        os.execv(spec["sshd"][0], spec["sshd"])
    except Exception as error:  # a first process that ends would be a panic, and a wall of text
        print(f"{type(error).__name__}: {error}", flush=True)
        _LIBC.reboot(_RB_POWER_OFF)


if __name__ == "__main__":
    main()
