"""What an interface's traffic control looks like now, in a canonical form that compares."""

from __future__ import annotations

from collections.abc import Mapping
from socket import AF_INET
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ndmsg import NUD_PERMANENT

from testbed.link.offload import read_offloads
from testbed.link.qdisc import asking_kernel, counters_of
from testbed.link.tree import format_handle

# Counters and alignment inside the options: they are no part of what was set.
_VOLATILE = ("header", "UNKNOWN", "__align", "direct_pkts", "TCA_U32_PCNT")

_MADE_BY_KERNEL = 2  # RTPROT_KERNEL

State = dict[str, Any]


def read_state(ipr: IPRoute, interface: str, index: int) -> State:
    """``{"qdiscs", "classes", "filters", "offloads", "link", "routes", "neighbours", "counters"}``.

    JSON-ready; all but ``counters`` is the same before shaping and after restoring.
    """
    qdiscs = list(ipr.get_qdiscs(index=index))
    classes = list(ipr.get_classes(index=index))
    filters = [
        found
        for qdisc in qdiscs
        if qdisc["handle"]
        for found in ipr.get_filters(index=index, handle=0, parent=qdisc["handle"])
    ]
    return {
        "qdiscs": [_describe(message) for message in qdiscs],
        "classes": [_describe(message) for message in classes],
        "filters": [_describe(message) for message in filters],
        "offloads": read_offloads(interface),
        "link": read_link(ipr, index),
        "routes": read_routes(ipr, index),
        "neighbours": read_neighbours(ipr, index),
        "counters": {
            f"{name} {format_handle(message['handle'])} {format_handle(message['parent'])}": (
                counters_of(message)
            )
            for name, found in (("qdisc", qdiscs), ("class", classes))
            for message in found
        },
    }


def read_link(ipr: IPRoute, index: int) -> dict[str, int | str]:
    """The settings of the interface itself that shaping touches, by pyroute2's names."""
    link = ipr.get_links(index)[0]
    return {
        "txqlen": link.get_attr("IFLA_TXQLEN"),
        "gso_max_segs": link.get_attr("IFLA_GSO_MAX_SEGS"),
        "state": link["state"],
    }


def read_routes(ipr: IPRoute, index: int) -> list[dict[str, Any]]:
    """IPv4 routes over an interface that the kernel does not make by itself.

    It forgets them when the interface goes down. Fields by pyroute2's names, as
    :func:`add_routes` takes them.
    """
    found = []
    for route in ipr.get_routes(family=AF_INET, oif=index):
        if route["proto"] == _MADE_BY_KERNEL:
            continue
        fields = {key: route.get(key) for key in ("dst", "gateway", "priority", "prefsrc", "table")}
        given = {key: value for key, value in fields.items() if value is not None}
        if "dst" in given:
            given["dst"] = f"{given['dst']}/{route['dst_len']}"
        found.append({"dst": "default", **given, "proto": route["proto"], "scope": route["scope"]})
    return found


def add_routes(ipr: IPRoute, index: int, routes: list[dict[str, Any]]) -> None:
    """Make those routes again that are gone."""
    present = read_routes(ipr, index)
    for route in routes:
        if route not in present:
            with asking_kernel(f"route to {route['dst']}"):
                ipr.route("add", oif=index, **route)


def read_neighbours(ipr: IPRoute, index: int) -> list[dict[str, Any]]:
    """Hardware addresses of IPv4 neighbours that somebody has told for good, in order.

    The kernel forgets them, too, when the interface goes down. Fields by pyroute2's names.
    """
    found = [
        {"dst": entry.get_attr("NDA_DST"), "lladdr": entry.get_attr("NDA_LLADDR")}
        for entry in ipr.get_neighbours(family=AF_INET, ifindex=index)
        if entry["state"] & NUD_PERMANENT
    ]
    return sorted(found, key=lambda entry: str(entry["dst"]))


def add_neighbours(ipr: IPRoute, index: int, neighbours: list[dict[str, Any]]) -> None:
    """Make those neighbours known again that are forgotten."""
    present = read_neighbours(ipr, index)
    for entry in neighbours:
        if entry not in present:
            with asking_kernel(f"neighbour {entry['dst']}"):
                ipr.neigh("replace", ifindex=index, state=NUD_PERMANENT, **entry)


def differences(before: State, after: State) -> tuple[str, ...]:
    """The parts of two states that differ, counters apart."""
    return tuple(key for key in before if key != "counters" and before[key] != after[key])


def _describe(message: Any) -> dict[str, Any]:
    return {
        "kind": message.get_attr("TCA_KIND"),
        "handle": format_handle(message["handle"]),
        "parent": format_handle(message["parent"]),
        "options": _plain(message.get_attr("TCA_OPTIONS")),
    }


def _plain(value: Any) -> Any:
    """Netlink attributes as plain dicts and lists."""
    if isinstance(value, Mapping):
        fields = {**value, **dict(value.get("attrs", ()))}
        return {
            key: _plain(field)
            for key, field in fields.items()
            if key != "attrs" and key not in _VOLATILE
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, (bytes, bytearray)) else value
