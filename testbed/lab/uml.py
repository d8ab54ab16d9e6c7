"""A router with netem where this machine's kernel has none: user-mode Linux, in the namespace.

Debian's ``user-mode-linux`` is a whole kernel as an ordinary process, with the qdiscs that this
kernel lacks. It runs inside the router's namespace, in a process namespace of its own: whatever
ends the namespace's processes ends all of it at once. Each of the namespace's links is bridged to
a tap of the guest, and the same sshd answers at the same address as in a namespace router.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

from pyroute2 import IPRoute

from testbed.config import Inventory
from testbed.errors import UserError
from testbed.lab import guest, plain_fp
from testbed.lab.layout import Layout, Seat
from testbed.lab.network import ROUTER_SYSCTLS, ends_of, in_namespace
from testbed.lab.sshd import Listener, Tools, home_of
from testbed.link.host import has_netem
from testbed.link.realtime import PRIORITY

PACKAGE = "user-mode-linux"
KERNEL = "linux.uml"
MAY_INSTALL = "TESTBED_MAY_INSTALL"  # set by make: only there is installing what was asked for
_MODULES_DIR = Path("/usr/lib/uml/modules")
_MODULES = (
    "sched/sch_htb",
    "sched/sch_netem",
    "sched/sch_ingress",
    "sched/cls_u32",
    "sched/act_mirred",
    "ipv4/tcp_bbr",
)
_IFB = "drivers/net/ifb"
_MEMORY = "mem=160M"
# The guest keeps no more of a program's registers than SSE's (plain_fp.py), not even over a page
# fault, so its C library and its OpenSSL must not use wider ones.
SSE_ONLY = {
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,"
    "-AVX_Fast_Unaligned_Load,-ERMS,-AVX2_Usable,-AVX_Usable,-XSAVEC,-XSAVE",
    "OPENSSL_ia32cap": "~0x1c00100000000000:0",
}
_READY_S = 60.0
# UDP in full-size packets, the least of what guests carried on two cores of a busy machine.
CARRIES_BPS = 67_000_000
# linux/if_tun.h
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


def wanted(inventory: Inventory, needs_netem: bool) -> bool:
    """Whether a virtual lab's router is such a guest: asked for, or netem needed and not here.

    Raises UserError where it would be one of several.
    """
    specs = [inventory.hosts[router].router for router in inventory.routers]
    kinds = {spec.kind if spec else "auto" for spec in specs}
    is_due = "uml" in kinds or ("auto" in kinds and needs_netem and not has_netem())
    if is_due and len(specs) > 1:
        raise UserError(
            f"hosts: {len(specs)} routers, of which none can be a user-mode Linux guest: leave "
            "netem's settings (delay, loss, ...) or router.kind: uml out, or all but one router"
        )
    return is_due


def require(say: Callable[[str], None]) -> None:
    """Return once the kernel is there; installs it where make allows that, and says so.

    Raises UserError with the remedy.
    """
    if shutil.which(KERNEL) and _MODULES_DIR.is_dir():
        return
    needed = (
        "lab: the link needs netem, which this machine's kernel lacks, and the router that brings "
        f"its own kernel needs the package {PACKAGE}"
    )
    if not os.environ.get(MAY_INSTALL) or os.geteuid() != 0 or not shutil.which("apt-get"):
        raise UserError(f"{needed}; install it (Debian: apt-get install {PACKAGE})")
    say(f"lab: installing {PACKAGE}: the link needs netem and this machine's kernel has none")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", PACKAGE],
    ):
        told = subprocess.run(command, env=quiet, capture_output=True, text=True)
        if told.returncode != 0:
            last = (told.stderr.strip().splitlines() or ["no word"])[-1]
            raise UserError(f"{needed}; {' '.join(command)} failed: {last}")


def start(tools: Tools, layout: Layout, seat: Seat, run_dir: Path) -> Listener:
    """Start the guest in the seat's namespace; its sshd is not ready yet."""
    home = home_of(run_dir, seat.host)
    ends = ends_of(layout, seat)
    taps = [f"tap{number}" for number in range(len(ends))]
    in_namespace(seat.namespace, partial(_wire, [end.link for end in ends], taps))
    spec = home / "guest.json"
    spec.write_text(
        json.dumps(
            {
                "hostname": seat.host,
                "path": os.environ.get("PATH", os.defpath),
                "run_dir": str(run_dir),
                "modules": _module_files(),
                "sysctls": ROUTER_SYSCTLS,
                "links": [
                    {
                        "device": f"vec{number}",
                        "name": end.link,
                        "address": str(end.address.ip),
                        "mask": str(end.address.netmask),
                    }
                    for number, end in enumerate(ends)
                ],
                "sshd": [tools.sshd, "-D", "-e", "-f", str(home / "sshd_config")],
            }
        )
    )
    log = home / "kernel.log"
    with log.open("wb") as stream:
        process = in_namespace(
            seat.namespace, partial(_spawn, _command(home, taps, spec), home, stream)
        )
    return Listener(seat, process, log, _READY_S)


def _spawn(command: list[str], home: Path, stream: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the guest ahead of ordinary processes, where that is permitted.

    A router is a machine of its own: its work must not wait for what the hosts that it joins
    compute, or packets and rate changes come when the scheduler of this machine pleases.
    """
    with suppress(OSError):  # not root, or a control group without real-time share
        # Of this thread, which starts the guest and ends.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(PRIORITY))
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=stream,
        cwd="/",
        env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home)},
        start_new_session=True,
    )


def _command(home: Path, taps: list[str], spec: Path) -> list[str]:
    """One guest is several processes here: a process namespace ends them all with the first."""
    return [
        *("unshare", "--pid", "--fork", "--kill-child"),
        *(sys.executable, "-I", "-S", str(Path(plain_fp.__file__)), KERNEL),
        *(_MEMORY, "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
        *("con=null", "con0=null,fd:1", "quiet", "panic=-1", f"uml_dir={home}/uml/"),
        # The kernel hands what it does not know to its first process, as environment.
        *(f"{name}={value}" for name, value in SSE_ONLY.items()),
        *(
            f"vec{number}:transport=tap,ifname={tap},depth=128,gro=0"
            for number, tap in enumerate(taps)
        ),
        *(f"init={sys.executable}", "--", "-I", "-S", str(Path(guest.__file__)), str(spec)),
    ]


def _module_files() -> list[str]:
    versions = sorted(_MODULES_DIR.iterdir())
    kernel = versions[-1] / "kernel"
    paths = [*(kernel / "net" / f"{name}.ko" for name in _MODULES), kernel / f"{_IFB}.ko"]
    return [str(path) for path in paths if path.exists()]


def _wire(links: list[str], taps: list[str]) -> None:
    """Bridge each link of this namespace to a new tap; the links themselves carry no address."""
    with IPRoute() as ip:
        for number, (link, tap) in enumerate(zip(links, taps, strict=True)):
            _make_tap(tap)
            ip.link("add", ifname=f"br{number}", kind="bridge")
            bridge = ip.link_lookup(ifname=f"br{number}")[0]
            for port in (link, tap):
                index = ip.link_lookup(ifname=port)[0]
                ip.link("set", index=index, master=bridge, state="up")
            ip.link("set", index=bridge, state="up")


def _make_tap(name: str) -> None:
    """A tap that waits for its guest; it goes with its namespace."""
    handle = os.open("/dev/net/tun", os.O_RDWR)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(handle, _TUNSETPERSIST, 1)
    finally:
        os.close(handle)
