"""What the link role asks of its host: the management path, netem, and the settings in force."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from testbed.errors import UserError

CLONE_NEWNET = 0x40000000
LOOPBACK_INDEX = 1
# Each changes what a shaped flow does and differs between hosts.
SYSCTLS = (
    "net/core/default_qdisc",
    "net/ipv4/ip_forward",
    "net/ipv4/tcp_available_congestion_control",
    "net/ipv4/tcp_congestion_control",
    "net/ipv4/tcp_no_metrics_save",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_slow_start_after_idle",
    "net/ipv4/tcp_wmem",
)


def read_sysctls() -> dict[str, str | None]:
    """Name to value of the settings that a shaped flow depends on; None where there is none."""
    values: dict[str, str | None] = {}
    for name in SYSCTLS:
        path = Path("/proc/sys", name)
        values[name.replace("/", ".")] = path.read_text().strip() if path.exists() else None
    return values


def pyroute2_version() -> str | None:
    """The library's version, or None where it was carried here without its metadata."""
    try:
        return version("pyroute2")
    except PackageNotFoundError:
        return None


def is_user_mode() -> bool:
    """Whether this kernel is a process of another one (arch/um/kernel/um_arch.c)."""
    return "User Mode Linux" in Path("/proc/cpuinfo").read_text()


def has_netem() -> bool | None:
    """Whether this kernel makes a netem qdisc; None where it cannot be tried without root.

    Tried on the loopback of a new network namespace that a thread enters by itself alone; the
    namespace is gone with the thread and its socket.
    """
    found: list[bool] = []

    def attempt() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
            return
        with IPRoute() as ipr:
            try:
                ipr.tc("add", "netem", index=LOOPBACK_INDEX, handle=0x10000)
                found.append(True)
            except NetlinkError:
                found.append(False)

    thread = threading.Thread(target=attempt, name="netem")
    thread.start()
    thread.join()
    return found[0] if found else None


def ssh_client(environ: Mapping[str, str]) -> str | None:
    """Address of the SSH client on whose connection this process runs, or None without SSH.

    sudo takes ``SSH_CONNECTION`` out of the environment; the nearest ancestor that has it tells.
    """
    connection = environ.get("SSH_CONNECTION")
    pid = os.getppid()
    while connection is None and pid > 1:
        process = Path("/proc", str(pid))
        try:
            entries = process.joinpath("environ").read_bytes().split(b"\0")
            status = process.joinpath("status").read_text()
        except OSError:  # the ancestor has ended, or is another user's
            return None
        prefix = b"SSH_CONNECTION="
        connection = next(
            (e[len(prefix) :].decode() for e in entries if e.startswith(prefix)), None
        )
        pid = int(status.split("PPid:")[1].split()[0])
    return connection.split()[0] if connection else None


def refuse_management_path(
    ipr: IPRoute, interfaces: Iterable[str], environ: Mapping[str, str]
) -> None:
    """Raise UserError where an interface carries the SSH connection that drives this role."""
    client = ssh_client(environ)
    if client is None:
        return
    carriers = _interfaces_towards(ipr, client)
    for interface in interfaces:
        if interface in carriers:
            raise UserError(
                f"{interface}: carries the SSH connection from {client}; shaping it would shape "
                "the management path: give the data traffic an interface of its own"
            )


def _interfaces_towards(ipr: IPRoute, client: str) -> set[str]:
    """The interface of the kernel's route to an address, and those that lie below it."""
    address, _, zone = client.partition("%")
    if zone:
        return {zone}
    family = AF_INET if ip_address(address).version == 4 else AF_INET6
    try:
        index = ipr.route("get", dst=address, family=family)[0].get_attr("RTA_OIF")
    except NetlinkError:  # no route from this namespace: nothing here carries it
        return set()
    links: dict[int, Any] = {link["index"]: link for link in ipr.get_links()}
    below, found = [index], set()
    while below:
        index = below.pop()
        if index in found or index not in links:
            continue
        found.add(index)
        link = links[index]
        if link.get_attr("IFLA_LINK_NETNSID") is None:  # a VLAN's parent; not a veth's far end
            below.append(link.get_attr("IFLA_LINK"))
        # The ports of a bridge, the members of a bond.
        below += [i for i, other in links.items() if other.get_attr("IFLA_MASTER") == index]
    return {links[i].get_attr("IFLA_IFNAME") for i in found}
