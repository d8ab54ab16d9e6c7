"""What the link role leaves behind, however it ends, and whose tree it takes over."""

from __future__ import annotations

import signal
from contextlib import ExitStack

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.rtnl import TC_H_ROOT

from testbed.link import qdisc
from testbed.link.state import differences
from testbed.link.tree import CLASS_HANDLE, ROOT_HANDLE, Tree
from tests.lab.wire import MBIT, QUEUE_BYTES, Role, Wire, constant

pytestmark = pytest.mark.lab


def test_restore_leaves_what_was_there_before(wire: Wire, role: Role) -> None:
    before = {i: wire.state("router", i) for i in ("to-server", "to-device")}
    assert any(was["active"] for was in before["to-server"]["offloads"].values())
    ready = role.shape("to-server", "to-device")
    shaped = wire.state("router", "to-server")
    assert {"qdiscs", "classes", "filters", "offloads", "link"} == set(
        differences(before["to-server"], shaped)
    )
    assert not any(was["active"] for was in shaped["offloads"].values())
    assert not differences(ready["shaped"]["to-server"], shaped)
    after = role.ask("restore", "restored")["after"]
    for interface, was in before.items():
        assert differences(was, after[interface]) == ()
        assert differences(was, wire.state("router", interface)) == ()


@pytest.mark.parametrize(
    "ending", ["end of stdin", "in a run", signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
def test_every_ending_puts_things_back(
    wire: Wire, role: Role, ending: str | signal.Signals
) -> None:
    before = wire.state("router", "to-server")
    role.shape("to-server")
    if ending != "end of stdin":
        role.start(uplink=constant(MBIT))
        role.ask("go", "went")
    if isinstance(ending, signal.Signals):
        role.process.send_signal(ending)
        assert role.process.wait(timeout=20) == 128 + ending
    else:
        assert role.end() == 0
    assert differences(before, wire.state("router", "to-server")) == ()


def test_a_killed_roles_tree_is_taken_over(wire: Wire, role: Role) -> None:
    with ExitStack() as stack:
        killed = Role(wire.names["router"])
        stack.callback(killed.close)
        killed.shape("to-server")
        killed.process.kill()
    ready = role.shape("to-server")
    assert [q["kind"] for q in ready["before"]["to-server"]["qdiscs"]] == ["noqueue"]


def test_a_foreign_root_is_refused_and_nothing_is_changed(wire: Wire, role: Role) -> None:
    sides = {
        name: {"interface": interface, "rate_bps": MBIT, "queue_bytes": QUEUE_BYTES}
        for name, interface in (("downlink", "to-device"), ("uplink", "to-server"))
    }
    with IPRoute(netns=wire.names["router"], flags=0) as ipr:
        index = ipr.link_lookup(ifname="to-server")[0]
        ipr.tc("add", "pfifo", index=index, handle=0x10000, parent=TC_H_ROOT, limit=77)
        try:
            before = {i: wire.state("router", i) for i in ("to-device", "to-server")}
            error = role.ask("setup", "error", directions=sides)
            assert error["user"]
            told = "to-server: expected the kernel's default root qdisc, got pfifo 1:"
            assert told in error["message"]
            for interface, was in before.items():
                assert differences(was, wire.state("router", interface)) == ()
        finally:
            ipr.tc("del", index=index, parent=TC_H_ROOT)


def test_another_default_than_before_is_replaced_by_the_kind_before(wire: Wire) -> None:
    with IPRoute(netns=wire.names["router"], flags=0) as ipr:
        index = ipr.link_lookup(ifname="to-server")[0]
        try:
            qdisc.apply(ipr, index, Tree("to-server", MBIT, QUEUE_BYTES))
            qdisc.remove_root(ipr, "to-server", index, kind_before="pfifo_fast")
            assert qdisc.read_root(ipr, index)[0] == "pfifo_fast"
        finally:
            ipr.tc("del", index=index, parent=TC_H_ROOT)


def test_a_vanished_tree_fails_the_run_and_the_rest_is_put_back(wire: Wire, role: Role) -> None:
    before = {i: wire.state("router", i) for i in ("to-device", "to-server")}
    role.shape("to-server", "to-device")
    with IPRoute(netns=wire.names["router"], flags=0) as ipr:
        index = ipr.link_lookup(ifname="to-server")[0]
        assert [c["handle"] for c in ipr.get_classes(index=index)] == [CLASS_HANDLE]
        ipr.tc("del", index=index, handle=ROOT_HANDLE, parent=TC_H_ROOT)
    schedules = {"uplink": constant(MBIT), "downlink": constant(MBIT)}
    error = role.ask("start", "error", run_id="r", schedules=schedules)
    assert not error["user"]
    assert "to-server: change the rate" in error["message"]
    for interface, was in before.items():
        assert differences(was, wire.state("router", interface)) == ()


def test_a_killed_roles_redirection_is_taken_over(wire: Wire) -> None:
    before = wire.state("server", "data")
    side = {"interface": "data", "rate_bps": MBIT, "queue_bytes": QUEUE_BYTES, "ingress": True}
    with ExitStack() as stack:
        killed = Role(wire.names["server"])
        stack.callback(killed.close)
        killed.ask("setup", "ready", directions={"uplink": side})
        killed.process.kill()
        killed.process.wait()
        role = Role(wire.names["server"])
        stack.callback(role.close)
        role.ask("setup", "ready", directions={"uplink": side})
        role.ask("restore", "restored")
    assert differences(before, wire.state("server", "data")) == ()
