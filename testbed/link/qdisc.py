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
from testbed.link import netem_options
from testbed.link.ahead import Ahead
from testbed.link.tree import (
    CLASS_HANDLE,
    DROP_HANDLE,
    INGRESS_HANDLE,
    LEAF_HANDLE,
    MATCH_ALL,
    ROOT_HANDLE,
    Tree,
    flow_keys,
    format_handle,
)

ETH_P_IP = 0x0800


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
    """Put the tree on an interface that has a default root; raises TestbedError.

    For ingress the interface is the ifb, where all that was redirected goes into the class.
    """
    with asking_kernel(f"{tree.interface}: shape"):
        ipr.tc("add", "htb", index=index, handle=ROOT_HANDLE, default=0)
        _set_class(ipr, "add-class", index, tree)
        _set_leaf(ipr, "add", index, tree)
        for keys in MATCH_ALL if tree.ingress else flow_keys(tree):
            ipr.tc(
                "add-filter",
                "u32",
                index=index,
                parent=ROOT_HANDLE,
                prio=1,
                protocol=ETH_P_IP,
                target=CLASS_HANDLE,
                keys=list(keys),
            )


def redirect(ipr: IPRoute, index: int, tree: Tree, ifb_index: int) -> None:
    """Send what arrives at an interface, and is to be shaped, to our own one."""
    action = {
        "kind": "mirred",
        "direction": "egress",
        "action": "redirect",
        "ifindex": ifb_index,
    }
    with asking_kernel(f"{tree.interface}: redirect what arrives"):
        ipr.tc("add", "ingress", index=index, handle=INGRESS_HANDLE)
        for keys in flow_keys(tree):
            ipr.tc(
                "add-filter",
                "u32",
                index=index,
                parent=INGRESS_HANDLE,
                prio=1,
                protocol=ETH_P_IP,
                target=0x10000,
                keys=list(keys),
                action=action,
            )


def _set_leaf(ipr: IPRoute, command: str, index: int, tree: Tree) -> None:
    options: dict[str, Any] = {} if tree.netem is None else {"netem": tree.netem}
    ipr.tc(
        command,
        tree.leaf_kind,
        index=index,
        handle=LEAF_HANDLE,
        parent=CLASS_HANDLE,
        limit=tree.leaf_packets,
        **options,
    )


def swap_leaf(ipr: IPRoute, index: int, tree: Tree, *, dropping: bool) -> None:
    """Throw the queue away: for a leaf that takes nothing, or for a fresh one of the tree."""
    with asking_kernel(f"{tree.interface}: {'drop' if dropping else 'queue'} everything"):
        if dropping:
            ipr.tc(
                "replace", "pfifo", index=index, handle=DROP_HANDLE, parent=CLASS_HANDLE, limit=0
            )
        else:
            _set_leaf(ipr, "replace", index, tree)


def encode_rate(ahead: Ahead, index: int, tree: Tree) -> bytes:
    """The request that sets the class to the tree's rate, for :func:`change_rate`."""
    _set_class(ahead.batch, "change-class", index, tree)
    return ahead.take()


def change_rate(ahead: Ahead, tree: Tree, request: bytes) -> None:
    """Set the class to the tree's rate; a class that has vanished is an error, not made again."""
    with asking_kernel(f"{tree.interface}: change the rate"):
        ahead.send(request)


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
        overhead=tree.overhead_bytes,
        mpu=tree.least_bytes,
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


def check_leaf(ipr: IPRoute, index: int, tree: Tree) -> bool | None:
    """Compare the leaf with the tree's; raises TestbedError where they differ.

    Returns whether the kernel took the seed, None where there is none to take: kernels before
    6.6 leave it out without a word.
    """
    found = next(
        (
            qdisc.get_attr("TCA_OPTIONS")
            for qdisc in ipr.get_qdiscs(index=index)
            if qdisc["handle"] == LEAF_HANDLE and qdisc["parent"] == CLASS_HANDLE
        ),
        None,
    )
    if found is None:
        raise TestbedError(
            f"{tree.interface}: our queue {format_handle(LEAF_HANDLE)} is gone; another program "
            "changed the qdiscs of this interface: stop it and run again"
        )
    if tree.netem is None:
        differing = {"limit": (tree.leaf_packets, found["limit"])}
        differing = {k: v for k, v in differing.items() if v[0] != v[1]}
    else:
        differing = netem_options.differing(tree.netem, tree.leaf_packets, found)
    took_seed = differing.pop("TCA_NETEM_PRNG_SEED", None) is None
    if differing:
        raise TestbedError(
            f"{tree.interface}: the kernel's queue differs from what was set, as (wanted, found): "
            f"{differing}; see the kernel's log"
        )
    return took_seed if tree.netem is not None and tree.netem.seed is not None else None


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
