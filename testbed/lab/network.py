"""Namespaces, veth pairs, addresses and routes, by netlink alone."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import TypeVar

from pyroute2 import IPRoute, netns

from testbed.errors import HostError, UserError
from testbed.lab.journal import NETNS_DIR
from testbed.lab.layout import (
    BRIDGE,
    BRIDGE_LINK,
    End,
    Layout,
    Seat,
    namespace_of,
    used_networks,
)
from testbed.link import offload

_CLONE_NEWNET = 0x40000000  # sched.h; os.unshare is younger than the oldest Python in use
_DISCARD_PORT = 9  # nothing listens on it in a fresh namespace
_PATH_S, _TRY_S = 10.0, 0.02
Result = TypeVar("Result")

# Of each namespace. TCP must not carry what it learnt of one run's link into the next run.
_SYSCTLS = {
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/tcp_no_metrics_save": "1",
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
}
ROUTER_SYSCTLS = {**_SYSCTLS, "ipv4/ip_forward": "1"}


def in_namespace(name: str, work: Callable[[], Result]) -> Result:
    """Run ``work`` in a thread inside the namespace; what it starts lives there too.

    A namespace belongs to a thread, so the caller's own stays as it is. Raises OSError if there
    is no such namespace, and whatever ``work`` raises.
    """

    def enter() -> Result:
        netns.setns(name, flags=0)  # the default flags would make a namespace of a mistyped name
        return work()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(enter).result()


def used_subnets() -> list[IPv4Network]:
    """Networks that the caller's namespace has an address in or a route to."""
    with IPRoute() as ip:
        addresses = [
            (address.get("address"), address["prefixlen"])
            for address in ip.get_addr(family=socket.AF_INET)
        ]
        routes = [
            (route.get("dst"), route["dst_len"])
            for route in ip.get_routes(family=socket.AF_INET)
            if route.get("dst")
        ]
    return list(used_networks(addresses + routes))


def build(layout: Layout) -> None:
    """Make the whole network of a layout: links up, addresses set, the router forwarding."""
    for seat in layout.seats:
        create(seat.namespace)
        forwarding = seat.host in layout.routers and not layout.uml
        in_namespace(seat.namespace, partial(_settle, forwarding))
    with IPRoute() as ip:
        for seat in layout.seats:
            _join(ip, seat.outside_link, seat.management)
            _bring_up(ip, seat.outside_link, seat.outside)
        if layout.uml:
            _plain_checksums(seat.outside_link for seat in layout.seats)
    for left, right in layout.segments:
        in_namespace(left.namespace, partial(_segment, left, right))
    for hub, *members in layout.shared:
        in_namespace(hub.namespace, partial(_bridge, hub, members))
    for seat in layout.seats:
        in_namespace(seat.namespace, partial(_configure, layout, seat))


def create(name: str) -> None:
    """Make a named namespace from a thread: pyroute2's own way forks a threaded process.

    Raises UserError where the machine does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def unshare() -> None:
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise UserError(
                f"lab: no new network namespace: {os.strerror(ctypes.get_errno())}; a container "
                "needs CAP_SYS_ADMIN and CAP_NET_ADMIN (such as docker run --privileged)"
            )
        netns.attach(name, threading.get_native_id())

    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(unshare).result()


def prove(layout: Layout) -> None:
    """Return once the server's data address answers every device, by refusing a connection.

    A veth that is up carries nothing until the kernel has noticed its peer, up to a second later.
    Raises HostError if it stays silent.
    """
    server = (str(layout.data(layout.server)), _DISCARD_PORT)
    for device in layout.devices:
        wait = partial(_await_refusal, device, server)
        in_namespace(namespace_of(layout.lab_id, device), wait)


def remove(namespaces: list[str], links: list[str]) -> list[str]:
    """Remove outside links and namespaces that exist; returns what was removed.

    The links go first, by name: those of a removed namespace go later, in the background.
    """
    removed = []
    with IPRoute() as ip:
        for link in links:
            for index in ip.link_lookup(ifname=link):
                ip.link("del", index=index)
                removed.append(f"link {link}")
    for name in namespaces:
        if (NETNS_DIR / name).exists():
            netns.remove(name)
            removed.append(f"namespace {name}")
    return removed


def _await_refusal(device: str, server: tuple[str, int]) -> None:
    deadline = time.monotonic() + _PATH_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(server, timeout=_TRY_S).close()
        except ConnectionRefusedError:
            return
        except TimeoutError:
            continue
    raise HostError(device, f"no answer from {server[0]} on the data path in {_PATH_S} s")


def _settle(forwarding: bool) -> None:
    """Before any link is made: its settings are copied from these."""
    settings = {**ROUTER_SYSCTLS, "ipv4/ip_forward": "1" if forwarding else "0"}
    for key, value in settings.items():
        path = Path("/proc/sys/net", key)
        if path.exists():  # a kernel without IPv6 has none to switch off
            path.write_text(value)


def _join(ip: IPRoute, link: str, peer: End) -> None:
    """A veth pair whose peer is born in its namespace: nothing to move, no orphan."""
    target = {"ifname": peer.link, "net_ns_fd": peer.namespace}
    ip.link("add", ifname=link, kind="veth", peer=target)


def _segment(left: End, right: End) -> None:
    with IPRoute() as ip:
        _join(ip, left.link, right)


def _bridge(hub: End, members: list[End]) -> None:
    """A network that the hub shares with all members: a bridge of the hub's own namespace."""
    ports = [f"port{number}" for number in range(1, len(members) + 1)]
    with IPRoute() as ip:
        ip.link("add", ifname=BRIDGE, kind="bridge")
        bridge = ip.link_lookup(ifname=BRIDGE)[0]
        ip.link("add", ifname=BRIDGE_LINK, kind="veth", peer={"ifname": hub.link})
        for port, member in zip(ports, members, strict=True):
            _join(ip, port, member)
        for port in (BRIDGE_LINK, *ports):
            index = ip.link_lookup(ifname=port)[0]
            ip.link("set", index=index, master=bridge, state="up")
        ip.link("set", index=bridge, state="up")


def ends_of(layout: Layout, seat: Seat) -> tuple[End, ...]:
    """The links of a host: management first, then its ends of the data path."""
    data = (end for end in layout.data_ends if end.namespace == seat.namespace)
    return (seat.management, *data)


def _plain_checksums(links: Iterable[str]) -> None:
    """A guest's tap carries packets as bytes: nobody behind it finishes a checksum."""
    for link in links:
        offload.set_features(link, {"tx-checksum-ip-generic": False})


def _configure(layout: Layout, seat: Seat) -> None:
    name = seat.namespace
    ends = ends_of(layout, seat)
    with IPRoute() as ip:
        ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
        for end in ends[1:]:
            # A wire carries packets of one MTU. A veth would pass on what TCP made for a
            # segmenting card, 64 kB at a time, and a shaper lets each through as one packet.
            offload.turn_off(end.link, offload.read_offloads(end.link))
        if layout.uml:
            _plain_checksums(end.link for end in ends)
            if seat.host in layout.routers:  # its guest has the addresses
                return
        for end in ends:
            _bring_up(ip, end.link, end.address)
        for route in layout.routes:
            if route.namespace == name:
                ip.route("add", dst=str(route.to), gateway=str(route.via))


def _bring_up(ip: IPRoute, link: str, address: IPv4Interface) -> None:
    index = ip.link_lookup(ifname=link)[0]
    ip.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
    ip.link("set", index=index, state="up")
