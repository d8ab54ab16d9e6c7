"""Which of the kernel's traffic control this host really has, by trying it.

``python -m testbed.link.modules`` prints ``{name: true|false|null}``: each is made in a network
namespace that a thread enters by itself alone, and is gone with it; null where no such namespace
can be made (not root).
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
from collections.abc import Callable

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import TC_H_INGRESS

from testbed.link.host import CLONE_NEWNET, LOOPBACK_INDEX, has_netem

ETH_P_IP = 0x0800
ROOT, CHILD = 0x10000, 0x10001


def _htb(ipr: IPRoute) -> None:
    ipr.tc("add", "htb", index=LOOPBACK_INDEX, handle=ROOT, default=0)
    ipr.tc("add-class", "htb", index=LOOPBACK_INDEX, handle=CHILD, parent=ROOT, rate=125_000)
    ipr.tc("add", "pfifo", index=LOOPBACK_INDEX, handle=0x20000, parent=CHILD, limit=10)
    _everything_to(ipr, ROOT, CHILD)


def _everything_to(ipr: IPRoute, parent: int, target: int, **action: object) -> None:
    place = {"index": LOOPBACK_INDEX, "parent": parent, "prio": 1, "protocol": ETH_P_IP}
    ipr.tc("add-filter", "u32", **place, target=target, keys=["0x0/0x0+0"], **action)


def _ifb(ipr: IPRoute) -> None:
    ipr.link("add", ifname="try-ifb", kind="ifb")


def _mirred(ipr: IPRoute) -> None:
    ipr.tc("add", "ingress", index=LOOPBACK_INDEX)
    action = {"kind": "mirred", "direction": "egress", "action": "redirect"}
    action_to = [{**action, "ifindex": LOOPBACK_INDEX}]
    _everything_to(ipr, TC_H_INGRESS, CHILD, action=action_to)


TRIALS: dict[str, Callable[[IPRoute], None]] = {
    "htb": _htb,
    "ifb": _ifb,
    "mirred": _mirred,
}


def try_all() -> dict[str, bool | None]:
    """The outcome of every trial."""
    found: dict[str, bool | None] = {"netem": has_netem(), **dict.fromkeys(TRIALS)}

    def attempt(name: str) -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
            return
        with IPRoute() as ipr:
            try:
                TRIALS[name](ipr)
                found[name] = True
            except NetlinkError:
                found[name] = False

    for name in TRIALS:
        thread = threading.Thread(target=attempt, args=(name,), name=name)
        thread.start()
        thread.join()
    return found


if __name__ == "__main__":
    print(json.dumps(try_all()))
    sys.exit(0)
