"""Put a tree on an interface, change its rate, read it back, take it away (pyroute2).

Every conversion between our units and the kernel's is in this file, and runs on the shaped host:
the kernel's tick is that host's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOENT, EPERM
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import TC_H_ROOT
from pyroute2.netlink.rtnl.tcmsg.common import tick_in_usec

from testbed.errors import TestbedError, UserError
from testbed.link.tree import CLASS_HANDLE, LEAF_HANDLE, ROOT_HANDLE, Tree, format_handle

ETH_P_IP = 0x0800
MATCH_ALL = "0x0/0x0+0"


@contextmanager
def asking_kernel(what: str) -> Iterator[None]:
    """Turn the kernel's refusal into one line that says what was asked."""
    try:
        yield
    except NetlinkError as error:
        remedy = {
            EPERM: "shaping needs root (inventory: sudo: true, or user: root)",
            ENOENT: "the kernel lacks a module (sch_htb, cls_u32), or another program removed ours",
        }.get(error.code, "see the kernel's log")
        reason = " ".join(str(part) for part in error.args)
        raise TestbedError(f"{what}: the kernel refused: {reason}; {remedy}") from error


def find_interface(ipr: IPRoute, interface: str) -> int:
    """The interface's index; raises UserError where there is none of this name."""
    found = ipr.link_lookup(ifname=interface)
    if not found:
        names = ", ".join(sorted(link.get_attr("IFLA_IFNAME") for link in ipr.get_links()))
        raise UserError(f"{interface}: no such interface; this host has {names}")
    return int(found[0])


def read_root(ipr: IPRoute, index: int) -> tuple[str, int]:
    """Kind and handle of the root qdisc."""
    for qdisc in ipr.get_qdiscs(index=index):
        if qdisc["parent"] == TC_H_ROOT:
            return qdisc.get_attr("TCA_KIND"), qdisc["handle"]
    return "noqueue", 0  # an interface that is down has none yet


def refuse_foreign_root(ipr: IPRoute, interface: str, index: int) -> None:
    """Raise UserError where the root qdisc is neither the kernel's default nor ours."""
    kind, handle = read_root(ipr, index)
    if handle not in (0, ROOT_HANDLE):  # only the kernel's own default has the handle 0
        raise UserError(
            f"{interface}: expected the kernel's default root qdisc, got {kind} "
            f"{format_handle(handle)}, which somebody else set up; remove it first: "
            f"tc qdisc del dev {interface} root"
        )


def apply(ipr: IPRoute, index: int, tree: Tree) -> None:
    """Put the tree on an interface that has a default root; raises TestbedError."""
    with asking_kernel(f"{tree.interface}: shape"):
        ipr.tc("add", "htb", index=index, handle=ROOT_HANDLE, default=0)
        _set_class(ipr, "add-class", index, tree)
        ipr.tc(
            "add",
            "pfifo",
            index=index,
            handle=LEAF_HANDLE,
            parent=CLASS_HANDLE,
            limit=tree.queue_packets,
        )
        ipr.tc(
            "add-filter",
            "u32",
            index=index,
            parent=ROOT_HANDLE,
            prio=1,
            protocol=ETH_P_IP,
            target=CLASS_HANDLE,
            keys=[MATCH_ALL],
        )


def change_rate(ipr: IPRoute, index: int, tree: Tree) -> None:
    """Set the class to the tree's rate; a class that has vanished is an error, not made again."""
    with asking_kernel(f"{tree.interface}: change the rate"):
        _set_class(ipr, "change-class", index, tree)


def _set_class(ipr: IPRoute, command: str, index: int, tree: Tree) -> None:
    # Always the full set: a parameter left out of a change goes back to its default. pyroute2
    # cuts the burst to whole microseconds, so it gets the middle of the microsecond meant.
    burst = (tree.burst_us + 0.5) * tree.class_bytes_per_s / 1e6
    ipr.tc(
        command,
        "htb",
        index=index,
        handle=CLASS_HANDLE,
        parent=ROOT_HANDLE,
        rate=tree.class_bytes_per_s,  # an int is bytes per second to pyroute2
        ceil=tree.class_bytes_per_s,
        burst=burst,
        cburst=burst,
        quantum=tree.quantum_bytes,
        prio=0,
    )


def read_class(ipr: IPRoute, index: int, tree: Tree) -> dict[str, int]:
    """The class's counters, in link bytes and packets since the tree was made.

    Raises TestbedError where the class in the kernel is not the one of the tree.
    """
    found = [c for c in ipr.get_classes(index=index) if c["handle"] == CLASS_HANDLE]
    if not found:
        raise TestbedError(
            f"{tree.interface}: our class {format_handle(CLASS_HANDLE)} is gone; another program "
            "changed the qdiscs of this interface: stop it and run again"
        )
    options = found[0].get_attr("TCA_OPTIONS")
    parms = options.get_attr("TCA_HTB_PARMS")
    burst_ticks = int(tree.burst_us * tick_in_usec)
    expected = {
        "rate": tree.class_bytes_per_s,
        "ceil": tree.class_bytes_per_s,
        "buffer": burst_ticks,
        "cbuffer": burst_ticks,
        "quantum": tree.quantum_bytes,
    }
    actual = {key: parms[key] for key in expected}
    for key in ("rate", "ceil"):
        actual[key] = options.get_attr(f"TCA_HTB_{key.upper()}64") or actual[key]
    if actual != expected:
        raise TestbedError(
            f"{tree.interface}: the kernel's class differs from what was set: expected "
            f"{expected}, got {actual} (bytes/s, ticks, bytes); another program changes it, or "
            "this kernel cannot do this rate"
        )
    return counters_of(found[0])


def read_leaf_packets(ipr: IPRoute, index: int) -> int | None:
    """The leaf's limit in packets, or None where our leaf is not there."""
    for qdisc in ipr.get_qdiscs(index=index):
        if qdisc["handle"] == LEAF_HANDLE and qdisc["parent"] == CLASS_HANDLE:
            return int(qdisc.get_attr("TCA_OPTIONS")["limit"])
    return None


def counters_of(message: Any) -> dict[str, int]:
    """The counters of a qdisc or class as the kernel told it."""
    stats = message.get_attr("TCA_STATS2")
    basic, queue = stats.get_attr("TCA_STATS_BASIC"), stats.get_attr("TCA_STATS_QUEUE")
    return {
        "bytes": basic["bytes"],
        "packets": basic["packets"],
        "drops": queue["drops"],
        "backlog_bytes": queue["backlog"],
        "overlimits": queue["overlimits"],
    }


def remove_root(ipr: IPRoute, interface: str, index: int, kind_before: str | None = None) -> None:
    """Take our root away, and only ours; the kernel then puts its default back.

    Where that default is another kind than was there before (the sysctl has changed since), a
    qdisc of the kind before is made again.
    """
    with asking_kernel(f"{interface}: remove our qdiscs"):
        if read_root(ipr, index)[1] == ROOT_HANDLE:
            ipr.tc("del", index=index, parent=TC_H_ROOT)
        if kind_before not in (None, read_root(ipr, index)[0]):
            ipr.tc("replace", kind_before, index=index, parent=TC_H_ROOT)
