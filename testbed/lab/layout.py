"""Where everything of a lab goes: names, links and addresses. Pure; touches nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
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
# Inside the namespace of a host that joins more than one other to itself.
BRIDGE, BRIDGE_LINK = "access", "access0"
MOST_ROUTERS = 4  # each has a quarter of the devices' addresses
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
    """A whole lab; ``routers`` maps the routers' host names to the devices behind each.

    ``uml``: the router is a guest with a kernel of its own (user-mode Linux). ``shared``: networks
    of more than two, each the end of the hub, in whose namespace a bridge joins them, then the
    others': a router's with several devices, the server's with several routers.
    """

    lab_id: str
    subnet: IPv4Network
    devices: tuple[str, ...]
    routers: Mapping[str, tuple[str, ...]]
    server: str
    seats: tuple[Seat, ...]
    segments: tuple[tuple[End, End], ...]
    routes: tuple[Route, ...]
    uml: bool = False
    shared: tuple[tuple[End, ...], ...] = ()

    @property
    def data_ends(self) -> tuple[End, ...]:
        """Every end of the data path."""
        return tuple(end for network in (*self.shared, *self.segments) for end in network)

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
    devices, routers, server = _parts(inventory)
    hosts = [*devices, *routers, server]
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
    layout = Layout(lab_id, subnet, devices, routers, server, seats, (), ())
    return _with_data_path(layout)


def _parts(inventory: Inventory) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]], str]:
    devices, server = inventory.hosts_of("device"), inventory.host_of("server")
    assert server is not None  # by the inventory's own check
    if server in devices:
        raise UserError(
            f"hosts.{server}.roles: device and server on one host have no link between them; "
            "give each a host of its own"
        )
    routers = inventory.routers
    extra = sorted(set(inventory.hosts) - {*devices, *routers, server})
    if extra:
        raise UserError(
            f"hosts.{extra[0]}: the virtual lab has devices, routers and a server, no more; "
            "give its roles to one of these and remove the host"
        )
    if len(routers) > MOST_ROUTERS:
        raise UserError(
            f"hosts: expected at most {MOST_ROUTERS} routers in the virtual lab, got {len(routers)}"
        )
    return devices, routers, server


def _with_data_path(layout: Layout) -> Layout:
    """The layout with its data path: device and server joined, or each with its router."""
    near, far = list(layout.subnet.subnets(new_prefix=26))[2:]
    server = End(namespace_of(layout.lab_id, layout.server), DATA_LINK, _in(far, 2))
    if not layout.routers:
        (device,) = layout.devices
        end = End(namespace_of(layout.lab_id, device), DATA_LINK, _in(near, 1))
        return replace(layout, segments=((end, replace(server, address=_in(near, 2))),))
    several = len(layout.routers) > 1
    fronts = list(near.subnets(new_prefix=28)) if several else [near]
    networks: list[tuple[End, ...]] = []
    routes: list[Route] = []
    behind = [server]
    # The server is at .2 and the first router at .1; more routers go on from .3.
    for front, place, (host, devices) in zip(fronts, [1, 3, 4, 5], layout.routers.items()):  # noqa: B905
        router = namespace_of(layout.lab_id, host)
        # One device is at .1 and its router at .2; more devices go on from .3.
        names = [namespace_of(layout.lab_id, device) for device in devices]
        places = [1, *range(3, 2 + len(devices))]
        ends = [End(n, DATA_LINK, _in(front, p)) for n, p in zip(names, places, strict=True)]
        networks.append((End(router, TO_DEVICE, _in(front, 2)), *ends))
        behind.append(End(router, TO_SERVER, _in(far, place)))
        routes += [Route(name, far, front[2]) for name in names]
        routes.append(Route(server.namespace, front, far[place]))
    networks.append(tuple(behind))
    pairs = tuple((a, b) for a, b, *more in networks if not more)
    shared = tuple(network for network in networks if len(network) > 2)
    return replace(layout, segments=pairs, routes=tuple(routes), shared=shared)


def _in(network: IPv4Network, index: int) -> IPv4Interface:
    return IPv4Interface(f"{network[index]}/{network.prefixlen}")


def used_networks(addresses: Iterable[tuple[str, int]]) -> Iterator[IPv4Network]:
    """Networks of (address, prefix length) pairs; a default route uses nothing."""
    for address, prefix in addresses:
        if prefix:
            yield IPv4Network(f"{address}/{prefix}", strict=False)
