"""Where a lab's parts go: names that fit, addresses that do not collide, inventories that fit."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.config import Inventory, load_inventory
from testbed.errors import TestbedError, UserError
from testbed.lab.layout import POOLS, check_id, free_subnet, plan_layout, used_networks

SUBNET = IPv4Network("10.213.7.0/24")


def inventory(**roles: list[str]) -> Inventory:
    hosts = {name: {"roles": given} for name, given in roles.items()}
    return Inventory.model_validate({"lab": "local", "hosts": hosts})


THREE = inventory(edge=["device"], middle=["link"], big=["server", "load"])


def test_the_inventory_in_the_project_fits() -> None:
    path = Path(__file__).parents[2] / "inventory" / "local.yaml"
    layout = plan_layout("abc", load_inventory(path), SUBNET)
    assert (layout.devices, tuple(layout.routers), layout.server) == (
        ("device",),
        ("router",),
        "server",
    )


def test_a_fleet_shares_one_network_with_the_router() -> None:
    path = Path(__file__).parents[2] / "inventory" / "fleet.yaml"
    layout = plan_layout("abc", load_inventory(path), SUBNET)
    assert layout.devices == ("device1", "device2", "device3", "device4")
    (access,) = layout.shared
    hub, *members = access
    assert (hub.namespace, hub.link) == ("tb-abc-router", "to-device")
    assert len({end.address.ip for end in access}) == 5
    assert {end.address.network for end in members} == {hub.address.network}
    ways = {route.namespace: route.via for route in layout.routes}
    assert {ways[end.namespace] for end in members} == {hub.address.ip}
    assert layout.data("device3") == members[2].address.ip
    assert len(layout.segments) == 1
    most = inventory(edge=["device"], middle=["link"], big=["server"])
    assert len(plan_layout("a", fleet_of(most, 16), SUBNET).seats) == 18


def test_every_router_has_a_network_of_its_own_and_all_meet_at_the_server() -> None:
    path = Path(__file__).parents[2] / "inventory" / "fleet-two-links.yaml"
    layout = plan_layout("abc", load_inventory(path), SUBNET)
    near, far, meeting = layout.shared
    assert [end.link for end in near] == ["to-device", "data0", "data0"]
    assert not near[0].address.network.overlaps(far[0].address.network)
    assert [end.namespace for end in meeting] == ["tb-abc-server", "tb-abc-near", "tb-abc-far"]
    ways = {(route.namespace, str(route.to)): route.via for route in layout.routes}
    assert len(ways) == 6
    for front, end in ((near, meeting[1]), (far, meeting[2])):
        there, back = str(meeting[0].address.network), str(front[0].address.network)
        assert {ways[device.namespace, there] for device in front[1:]} == {front[0].address.ip}
        assert ways["tb-abc-server", back] == end.address.ip
    addresses = [end.address.ip for end in layout.data_ends]
    assert len(set(addresses)) == len(addresses)
    five = {f"r{n}": {"roles": ["link"], "router": {"devices": [f"d{n}"]}} for n in range(5)}
    edges = {f"d{n}": {"roles": ["device"]} for n in range(5)}
    hosts = {**edges, **five, "big": {"roles": ["server"]}}
    many = Inventory.model_validate({"lab": "local", "hosts": hosts})
    with pytest.raises(UserError, match="at most 4 routers"):
        plan_layout("abc", many, SUBNET)


def fleet_of(one: Inventory, devices: int) -> Inventory:
    return one.model_copy(update={"devices": devices}).with_every_device


@given(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True))
def test_names_fit_the_kernel_and_no_address_is_given_twice(lab_id: str) -> None:
    layout = plan_layout(check_id(lab_id), THREE, SUBNET)
    ends = [seat.management for seat in layout.seats] + [
        e for pair in layout.segments for e in pair
    ]
    links = [end.link for end in ends] + [seat.outside_link for seat in layout.seats]
    assert max(map(len, links)) <= 15
    addresses = [end.address for end in ends] + [seat.outside for seat in layout.seats]
    assert len({address.ip for address in addresses}) == len(addresses) == 10
    for address in addresses:
        assert address.network.subnet_of(SUBNET)
        assert address.ip not in (address.network[0], address.network[-1])


def test_every_link_joins_two_ends_of_one_network_apart_from_the_others() -> None:
    layout = plan_layout("abc", THREE, SUBNET)
    pairs = [*layout.segments]
    networks = [left.address.network for left, _ in pairs]
    assert networks == [right.address.network for _, right in pairs]
    networks += [seat.outside.network for seat in layout.seats]
    assert networks[2:] == [seat.management.address.network for seat in layout.seats]
    assert not any(a.overlaps(b) for i, a in enumerate(networks) for b in networks[:i])


def test_routes_lead_over_the_router_both_ways() -> None:
    layout = plan_layout("abc", THREE, SUBNET)
    router = {
        end.address.ip for pair in layout.segments for end in pair if "middle" in end.namespace
    }
    assert {route.via for route in layout.routes} == router
    to_server, to_device = layout.routes
    assert layout.data("big") in to_server.to
    assert layout.data("edge") in to_device.to


def test_without_a_router_device_and_server_are_joined() -> None:
    layout = plan_layout("abc", inventory(a=["device", "link"], b=["server"]), SUBNET)
    assert not layout.routers
    assert layout.routes == ()
    ((left, right),) = layout.segments
    assert left.address.network == right.address.network


@pytest.mark.parametrize(
    ("roles", "where"),
    [
        ({"a": ["device", "server"]}, "hosts.a.roles"),
        ({"a": ["device"], "b": ["server"], "c": ["load"]}, "hosts.c"),
    ],
)
def test_an_inventory_without_a_place_is_refused(roles: dict[str, list[str]], where: str) -> None:
    with pytest.raises(UserError, match=where):
        plan_layout("abc", inventory(**roles), SUBNET)


@pytest.mark.parametrize("bad", ["", "A", "a-b", "ninechars", "a/b", ".."])
def test_a_bad_lab_id_is_refused(bad: str) -> None:
    with pytest.raises(UserError, match="lab id"):
        check_id(bad)


def test_a_free_subnet_avoids_addresses_and_routes_but_not_the_default_route() -> None:
    used = [("0.0.0.0", 0), ("10.213.0.9", 30), ("10.213.1.0", 24)]
    assert free_subnet(used_networks(used)) == IPv4Network("10.213.2.0/24")


def test_a_vpn_over_all_of_ten_leaves_the_second_pool() -> None:
    subnet = free_subnet([IPv4Network("10.0.0.0/8")])
    assert subnet.subnet_of(POOLS[1])


def test_no_room_at_all_is_said() -> None:
    with pytest.raises(TestbedError, match="no free /24"):
        free_subnet(POOLS)
