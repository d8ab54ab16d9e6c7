"""One interface from its first change to its restoring."""

from __future__ import annotations

from pyroute2 import IPRoute

from testbed.errors import TestbedError
from testbed.link import offload, qdisc
from testbed.link.state import State, differences, read_link, read_state
from testbed.link.tree import ROOT_HANDLE, Tree


class ShapedInterface:
    """An interface that holds our tree; made, changed and restored in one thread.

    Attributes:
        tree: what is set now.
        index: the interface's, by which a journal knows it again.
        before: its state before the first change.
    """

    def __init__(self, ipr: IPRoute, tree: Tree) -> None:
        """Look only: nothing is changed. Raises UserError for a foreign root or no interface."""
        self._ipr = ipr
        self.tree = tree
        self.index = qdisc.find_interface(ipr, tree.interface)
        qdisc.refuse_foreign_root(ipr, tree.interface, self.index)
        if qdisc.read_root(ipr, self.index)[1] == ROOT_HANDLE:
            # A role that was killed left it: what the kernel puts in its place is what was before.
            qdisc.remove_root(ipr, tree.interface, self.index)
        self.before = read_state(ipr, tree.interface, self.index)

    def shape(self) -> State:
        """Turn offloads off, put the tree on, read it back; what is there then."""
        offload.turn_off(self.tree.interface, self.before["offloads"])
        # This host's own TCP builds super-packets whatever the interface offloads (they would be
        # cut only below our queue): 60 kB then pass a 5 Mbit/s class in 2 ms.
        with qdisc.asking_kernel(f"{self.tree.interface}: set gso_max_segs"):
            self._ipr.link("set", index=self.index, gso_max_segs=1)
        qdisc.apply(self._ipr, self.index, self.tree)
        self.counters()
        limit = qdisc.read_leaf_packets(self._ipr, self.index)
        if limit != self.tree.queue_packets:
            raise TestbedError(
                f"{self.tree.interface}: queue: expected {self.tree.queue_packets} packets, the "
                f"kernel holds {limit}; see the kernel's log"
            )
        return self.state()

    def set_rate(self, rate_bps: int) -> None:
        """Change the class's rate; queue and tokens stay."""
        tree = self.tree.with_rate(rate_bps)
        qdisc.change_rate(self._ipr, self.index, tree)
        self.tree = tree

    def counters(self) -> dict[str, int]:
        """The class's counters; raises TestbedError where the class is not what was set."""
        return qdisc.read_class(self._ipr, self.index, self.tree)

    def state(self) -> State:
        """What is there now."""
        return read_state(self._ipr, self.tree.interface, self.index)

    def restore(self, ipr: IPRoute) -> State | None:
        """As :func:`put_back`, through a fresh socket: a signal may have cut the old one short."""
        return put_back(ipr, self.tree.interface, self.index, self.before)


def put_back(ipr: IPRoute, interface: str, index: int, before: State) -> State | None:
    """Put everything back as it was found; what is there then, None for a lost interface.

    ``before`` may come from a journal: whoever shaped the interface need not live any more. Raises
    TestbedError naming what could not be put back.
    """
    if ipr.link_lookup(ifname=interface) != [index]:
        return None
    root_before = next((q for q in before["qdiscs"] if q["parent"] == "root"), None)
    qdisc.remove_root(ipr, interface, index, root_before and root_before["kind"])
    # txqlen too: the kernel gives an interface without one a length when a qdisc is put on.
    now = read_link(ipr, index)
    if changed := {k: v for k, v in before["link"].items() if v != now[k]}:
        with qdisc.asking_kernel(f"{interface}: set {changed}"):
            ipr.link("set", index=index, **changed)
    offload.restore(interface, before["offloads"])
    after = read_state(ipr, interface, index)
    if differing := differences(before, after):
        raise TestbedError(
            f"{interface}: {', '.join(differing)} differ from before shaping: expected "
            f"{[before[key] for key in differing]}, got "
            f"{[after[key] for key in differing]}; put them back by hand"
        )
    return after
