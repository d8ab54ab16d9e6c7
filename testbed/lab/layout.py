"""Where everything of a lab goes: names, links and addresses. Pure; touches nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from testbed.config import Inventory
from testbed.errors import TestbedError, UserError

# Searched in order for a free /24. The second is RFC 2544's range for benchmarks, for machines
# where a VPN routes all of 10/8.
POOLS = (IPv4Network("10.213.0.0/16"), IPv4Network("198.18.0.0/15"))
SSH_PORT = 2222  # a fixed one: the address is the namespace's own
DATA_LINK = "data0"
MANAGEMENT_LINK = "mgmt0"
TO_DEVICE, TO_SERVER = "to-device", "to-server"
# Inside the router's namespace, where several devices share its link.
BRIDGE, BRIDGE_LINK = "access", "access0"
_LAB_ID = re.compile(r"^[a-z0-9]{1,8}$")  # an interface name has room for no more


@dataclass(frozen=True)
class End:
    """One end of a veth pair."""

    namespace: str
    link: str
    address: IPv4Interface


@dataclass(frozen=True)
class Seat:
    """One host's place: its namespace and its management veth, whose other end is outside."""

    host: str
    management: End
    outside_link: str
    outside: IPv4Interface

    @property
    def namespace(self) -> str:
        """The name of the host's namespace."""
        return self.management.namespace


@dataclass(frozen=True)
class Route:
    """A static route inside a namespace."""

    namespace: str
    to: IPv4Network
    via: IPv4Address


@dataclass(frozen=True)
class Layout:
    """A whole lab; ``router`` is the router's host name, or None where there is no such host.

    ``uml``: the router is a guest with a kernel of its own (user-mode Linux). ``access``: where
    there are several devices, the router's end of the network that they share, then theirs; a
    bridge in the router's namespace joins them.
    """

    lab_id: str
    subnet: IPv4Network
    devices: tuple[str, ...]
    router: str | None
    server: str
    seats: tuple[Seat, ...]
    segments: tuple[tuple[End, End], ...]
    routes: tuple[Route, ...]
    uml: bool = False
    access: tuple[End, ...] = ()

    @property
    def data_ends(self) -> tuple[End, ...]:
        """Every end of the data path."""
        return (*self.access, *(end for pair in self.segments for end in pair))

    def data(self, host: str) -> IPv4Address:
        """The address of a device's or the server's end of the data path."""
        namespace = namespace_of(self.lab_id, host)
        return next(end.address.ip for end in self.data_ends if end.namespace == namespace)


def check_id(lab_id: str) -> str:
    """The lab id as given; raises UserError unless it fits into an interface name."""
    if not _LAB_ID.match(lab_id):
        raise UserError(f"lab id {lab_id!r}: expected 1 to 8 of a-z and 0-9, such as 'a1b2c3'")
    return lab_id


def namespace_of(lab_id: str, host: str) -> str:
    """The namespace's name; all of a lab's names carry its id."""
    return f"tb-{lab_id}-{host}"


def free_subnet(used: Iterable[IPv4Network]) -> IPv4Network:
    """The first /24 of the pools that overlaps nothing in use.

    Raises TestbedError when everything is taken.
    """
    taken = tuple(used)
    for pool in POOLS:
        for subnet in pool.subnets(new_prefix=24):
            if not any(subnet.overlaps(other) for other in taken):
                return subnet
    pools = " and ".join(map(str, POOLS))
    raise TestbedError(f"lab: no free /24 in {pools}: remove unused labs (testbed lab down --all)")


def plan_layout(lab_id: str, inventory: Inventory, subnet: IPv4Network) -> Layout:
    """Lay the inventory's hosts out in one /24: its lower half manages, its upper half is data.

    Raises UserError for an inventory that the lab has no place for.
    """
    devices, router, server = _parts(inventory)
    hosts = [*devices, *([router] if router else []), server]
    blocks = subnet.subnets(new_prefix=30)
    seats = tuple(
        Seat(
            host,
            End(namespace_of(lab_id, host), MANAGEMENT_LINK, _in(block, 2)),
            f"tb-{lab_id}-m{index}",
            _in(block, 1),
        )
        for index, (host, block) in enumerate(zip(hosts, blocks))  # noqa: B905 (blocks outlast)
    )
    layout = Layout(lab_id, subnet, devices, router, server, seats, (), ())
    return _with_data_path(layout)


def _parts(inventory: Inventory) -> tuple[tuple[str, ...], str | None, str]:
    devices, server = inventory.hosts_of("device"), inventory.host_of("server")
    assert server is not None  # by the inventory's own check
    if server in devices:
        raise UserError(
            f"hosts.{server}.roles: device and server on one host have no link between them; "
            "give each a host of its own"
        )
    link = inventory.host_of("link")
    router = link if link not in (*devices, server) else None
    extra = sorted(set(inventory.hosts) - {*devices, router, server})
    if extra:
        raise UserError(
            f"hosts.{extra[0]}: the virtual lab has devices, a router and a server, no more; "
            "give its roles to one of these and remove the host"
        )
    return devices, router, server


def _with_data_path(layout: Layout) -> Layout:
    """The layout with its data path: device and server joined, or each with the router."""
    near, far = list(layout.subnet.subnets(new_prefix=26))[2:]
    devices = [namespace_of(layout.lab_id, host) for host in layout.devices]
    server = namespace_of(layout.lab_id, layout.server)
    if layout.router is None:
        (device,) = devices
        joined = (End(device, DATA_LINK, _in(near, 1)), End(server, DATA_LINK, _in(near, 2)))
        return replace(layout, segments=(joined,))
    router = namespace_of(layout.lab_id, layout.router)
    # One device is at .1 and the router at .2; more devices go on from .3.
    places = [1, *range(3, 2 + len(devices))]
    ends = [End(name, DATA_LINK, _in(near, n)) for name, n in zip(devices, places, strict=True)]
    hub = End(router, TO_DEVICE, _in(near, 2))
    behind = (End(server, DATA_LINK, _in(far, 2)), End(router, TO_SERVER, _in(far, 1)))
    routes = (*(Route(name, far, near[2]) for name in devices), Route(server, near, far[1]))
    if len(ends) == 1:
        return replace(layout, segments=((ends[0], hub), behind), routes=routes)
    return replace(layout, segments=(behind,), routes=routes, access=(hub, *ends))


def _in(network: IPv4Network, index: int) -> IPv4Interface:
    return IPv4Interface(f"{network[index]}/{network.prefixlen}")


def used_networks(addresses: Iterable[tuple[str, int]]) -> Iterator[IPv4Network]:
    """Networks of (address, prefix length) pairs; a default route uses nothing."""
    for address, prefix in addresses:
        if prefix:
            yield IPv4Network(f"{address}/{prefix}", strict=False)
