"""What arrives at an interface, shaped on an interface of our own (ifb) that it is redirected to.

The ifb carries the number of the interface in its name, so that whoever comes later knows whose
it is: only an ``ingress`` qdisc beside our ifb is ever taken away.
"""

from __future__ import annotations

from pyroute2 import IPRoute

from testbed.errors import UserError
from testbed.link.qdisc import asking_kernel
from testbed.link.tree import INGRESS_HANDLE, Tree, format_handle, ifb_name

_INGRESS_PARENT = 0xFFFFFFF1  # TC_H_INGRESS


def make(ipr: IPRoute, tree: Tree, index: int) -> int:
    """Make the ifb of an interface; its index. Nothing is redirected yet."""
    name = ifb_name(index)
    with asking_kernel(f"{tree.interface}: make {name}"):
        ipr.link("add", ifname=name, kind="ifb")
        (ifb_index,) = ipr.link_lookup(ifname=name)
        ipr.link("set", index=ifb_index, state="up", gso_max_segs=1)
    return int(ifb_index)


def remove(ipr: IPRoute, interface: str, index: int) -> None:
    """Take the redirection and the ifb away, where they are ours; else do nothing."""
    ours = ipr.link_lookup(ifname=ifb_name(index))
    if not ours:
        return
    with asking_kernel(f"{interface}: remove our redirection"):
        if _has_ingress(ipr, index):
            ipr.tc("del", index=index, parent=_INGRESS_PARENT)
        ipr.link("del", index=ours[0])


def refuse_foreign(ipr: IPRoute, interface: str, index: int) -> None:
    """Raise UserError where somebody else handles what arrives."""
    if _has_ingress(ipr, index):
        raise UserError(
            f"{interface}: expected no ingress qdisc, got {format_handle(INGRESS_HANDLE)}, which "
            f"somebody else set up; remove it first: tc qdisc del dev {interface} ingress"
        )


def _has_ingress(ipr: IPRoute, index: int) -> bool:
    return any(qdisc["handle"] == INGRESS_HANDLE for qdisc in ipr.get_qdiscs(index=index))
