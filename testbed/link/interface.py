"""One interface from its first change to its restoring."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pyroute2 import IPRoute

from testbed.errors import TestbedError
from testbed.link import ingress, offload, qdisc
from testbed.link.ahead import Ahead
from testbed.link.neighbours import Neighbours
from testbed.link.state import State, add_neighbours, add_routes, differences, read_link, read_state
from testbed.link.tree import ROOT_HANDLE, Tree


class ShapedInterface:
    """An interface that holds our tree; made, changed and restored in one thread.

    Attributes:
        tree: what is set now.
        index: the interface's, by which a journal knows it again.
        before: its state before the first change.
        takes_seed: whether the kernel took the seed; None where there is none.
    """

    def __init__(self, ipr: IPRoute, ahead: Ahead, tree: Tree) -> None:
        """Look only: nothing is changed. Raises UserError for a foreign root or no interface."""
        self._ipr = ipr
        self._ahead = ahead
        self.tree = tree
        self.index = qdisc.find_interface(ipr, tree.interface)
        self.takes_seed: bool | None = None
        self._shaped_index = self.index  # the ifb's, at ingress
        self._dropping = False
        self._neighbours: Neighbours | None = None  # of an interface that goes down
        qdisc.refuse_foreign_root(ipr, tree.interface, self.index)
        ingress.remove(ipr, tree.interface, self.index)
        ingress.refuse_foreign(ipr, tree.interface, self.index)
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
        if self.tree.ingress:
            self._shaped_index = ingress.make(self._ipr, self.tree, self.index)
        qdisc.apply(self._ipr, self._shaped_index, self.tree)
        if self.tree.ingress:  # only now: what is redirected to nothing would be lost
            qdisc.redirect(self._ipr, self.index, self.tree, self._shaped_index)
        self.counters()
        self.takes_seed = qdisc.check_leaf(self._ipr, self._shaped_index, self.tree)
        return self.state()

    def reshape(self, tree: Tree) -> None:
        """Another queue or other impairments, from the next run on; what is queued is lost."""
        qdisc.swap_leaf(self._ipr, self._shaped_index, tree, dropping=True)
        qdisc.swap_leaf(self._ipr, self._shaped_index, tree, dropping=False)
        self.tree = tree
        self.takes_seed = qdisc.check_leaf(self._ipr, self._shaped_index, tree)

    def to_rate(self, rate_bps: int) -> Callable[[], None]:
        """Another rate of the class, which ends an outage; queue and tokens stay.

        All that can be done ahead is done; the rate is in force once the result has been called,
        which is to be before anything else is changed here.
        """
        tree = self.tree.with_rate(rate_bps)
        request = qdisc.encode_rate(self._ahead, self._shaped_index, tree)

        def act() -> None:
            qdisc.change_rate(self._ahead, tree, request)
            self.tree = tree
            if self._dropping:
                qdisc.swap_leaf(self._ipr, self._shaped_index, tree, dropping=False)
                self._dropping = False
            if tree.outage == "down":
                self._bring_up()

        return act

    def to_hold(self, owed_ns: int) -> Callable[[], None]:
        """Let nothing pass for so long after the next packet, which passes.

        As :meth:`to_rate`, it begins once the result is called. In the outage ``drop`` what is
        queued, and what comes, is lost; in ``down`` the interface is down.
        """
        if self.tree.outage == "down":
            if not self.tree.ingress:  # nobody knows of our ifb
                if self._neighbours is None:
                    self._neighbours = Neighbours(self._ipr, self.tree.interface, self.index)
                self._neighbours.remember()
            return partial(self._ipr.link, "set", index=self._shaped_index, state="down")
        if self.tree.outage == "drop":
            return self._drop
        tree = self.tree.held(owed_ns)
        request = qdisc.encode_rate(self._ahead, self._shaped_index, tree)

        def act() -> None:
            qdisc.change_rate(self._ahead, tree, request)
            self.tree = tree

        return act

    def _drop(self) -> None:
        if not self._dropping:
            self._dropping = True
            qdisc.swap_leaf(self._ipr, self._shaped_index, self.tree, dropping=True)

    def _bring_up(self) -> None:
        if self._ipr.get_links(self._shaped_index)[0]["state"] == "down":
            self._ipr.link("set", index=self._shaped_index, state="up")
            if not self.tree.ingress:  # the kernel forgets them with the link
                add_routes(self._ipr, self.index, self.before["routes"])
                offload.turn_off(self.tree.interface, self.before["offloads"])
            if self._neighbours is not None:
                self._neighbours.meet()

    def counters(self) -> dict[str, int]:
        """The class's counters; raises TestbedError where the class is not what was set."""
        return qdisc.read_class(self._ipr, self._shaped_index, self.tree)

    def state(self) -> State:
        """What is there now."""
        return read_state(self._ipr, self.tree.interface, self.index)

    def restore(self, ipr: IPRoute) -> State | None:
        """As :func:`put_back`, through a fresh socket: a signal may have cut the old one short."""
        if self._neighbours is not None:
            self._neighbours.close()
        return put_back(ipr, self.tree.interface, self.index, self.before)


def put_back(ipr: IPRoute, interface: str, index: int, before: State) -> State | None:
    """Put everything back as it was found; what is there then, None for a lost interface.

    ``before`` may come from a journal: whoever shaped the interface need not live any more. Raises
    TestbedError naming what could not be put back.
    """
    if ipr.link_lookup(ifname=interface) != [index]:
        return None
    ingress.remove(ipr, interface, index)
    root_before = next((q for q in before["qdiscs"] if q["parent"] == "root"), None)
    qdisc.remove_root(ipr, interface, index, root_before and root_before["kind"])
    # txqlen too: the kernel gives an interface without one a length when a qdisc is put on.
    now = read_link(ipr, index)
    if changed := {k: v for k, v in before["link"].items() if v != now[k]}:
        with qdisc.asking_kernel(f"{interface}: set {changed}"):
            ipr.link("set", index=index, **changed)
    add_routes(ipr, index, before["routes"])
    add_neighbours(ipr, index, before["neighbours"])
    offload.restore(interface, before["offloads"])
    after = read_state(ipr, interface, index)
    if differing := differences(before, after):
        raise TestbedError(
            f"{interface}: {', '.join(differing)} differ from before shaping: expected "
            f"{[before[key] for key in differing]}, got "
            f"{[after[key] for key in differing]}; put them back by hand"
        )
    return after
