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
        before: its state before the first change.
    """

    def __init__(self, ipr: IPRoute, tree: Tree) -> None:
        """Look only: nothing is changed. Raises UserError for a foreign root or no interface."""
        self._ipr = ipr
        self.tree = tree
        self._index = qdisc.find_interface(ipr, tree.interface)
        qdisc.refuse_foreign_root(ipr, tree.interface, self._index)
        if qdisc.read_root(ipr, self._index)[1] == ROOT_HANDLE:
            # A role that was killed left it: what the kernel puts in its place is what was before.
            qdisc.remove_root(ipr, tree.interface, self._index)
        self.before = read_state(ipr, tree.interface, self._index)

    def shape(self) -> State:
        """Turn offloads off, put the tree on, read it back; what is there then."""
        offload.turn_off(self.tree.interface, self.before["offloads"])
        # This host's own TCP builds super-packets whatever the interface offloads (they would be
        # cut only below our queue): 60 kB then pass a 5 Mbit/s class in 2 ms.
        with qdisc.asking_kernel(f"{self.tree.interface}: set gso_max_segs"):
            self._ipr.link("set", index=self._index, gso_max_segs=1)
        qdisc.apply(self._ipr, self._index, self.tree)
        self.counters()
        limit = qdisc.read_leaf_packets(self._ipr, self._index)
        if limit != self.tree.queue_packets:
            raise TestbedError(
                f"{self.tree.interface}: queue: expected {self.tree.queue_packets} packets, the "
                f"kernel holds {limit}; see the kernel's log"
            )
        return self.state()

    def set_rate(self, rate_bps: int) -> None:
        """Change the class's rate; queue and tokens stay."""
        tree = self.tree.with_rate(rate_bps)
        qdisc.change_rate(self._ipr, self._index, tree)
        self.tree = tree

    def counters(self) -> dict[str, int]:
        """The class's counters; raises TestbedError where the class is not what was set."""
        return qdisc.read_class(self._ipr, self._index, self.tree)

    def state(self) -> State:
        """What is there now."""
        return read_state(self._ipr, self.tree.interface, self._index)

    def restore(self, ipr: IPRoute) -> State | None:
        """Put everything back as it was found; what is there then, None for a lost interface.

        ``ipr`` is a fresh socket: a signal may have cut a request on the old one short. Raises
        TestbedError naming what could not be put back.
        """
        interface = self.tree.interface
        if ipr.link_lookup(ifname=interface) != [self._index]:
            return None
        root_before = next((q for q in self.before["qdiscs"] if q["parent"] == "root"), None)
        qdisc.remove_root(ipr, interface, self._index, root_before and root_before["kind"])
        # txqlen too: the kernel gives an interface without one a length when a qdisc is put on.
        now = read_link(ipr, self._index)
        if changed := {k: v for k, v in self.before["link"].items() if v != now[k]}:
            with qdisc.asking_kernel(f"{interface}: set {changed}"):
                ipr.link("set", index=self._index, **changed)
        offload.restore(interface, self.before["offloads"])
        after = read_state(ipr, interface, self._index)
        if differing := differences(self.before, after):
            raise TestbedError(
                f"{interface}: {', '.join(differing)} differ from before shaping: expected "
                f"{[self.before[key] for key in differing]}, got "
                f"{[after[key] for key in differing]}; put them back by hand"
            )
        return after
