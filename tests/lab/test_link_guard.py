"""Lock, journal and watchdog of the link role, in namespaces of their own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ndmsg import NUD_PERMANENT

from testbed.link import journal
from testbed.link.state import differences
from testbed.link.watchdog import PATIENCE_S, SECOND_LOOK_S
from tests.lab.wire import MBIT, QUEUE_BYTES, Role, Wire, constant, inside

pytestmark = pytest.mark.lab


def recover(wire: Wire, action: str) -> list[dict[str, Any]]:
    command = inside(wire.names["router"], "-m", "testbed.link.recover", action)
    told = subprocess.run(command, check=True, capture_output=True, timeout=30)
    return json.loads(told.stdout)


def journals(wire: Wire) -> list[Path]:
    inode = Path("/run/netns", wire.names["router"]).stat().st_ino
    return [path for path in journal.paths() if f"-{inode}-" in path.name]


def watchdog_of(pid: int) -> int:
    """The role's child process."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def await_end(handle: int) -> None:
    """Return once the process of a pidfd has ended."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    assert poll.poll(20_000), "the watchdog did not end"
    os.close(handle)


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGKILL, "shaped"), (signal.SIGKILL, "in a run"), (signal.SIGSTOP, "in a run")],
)
def test_a_lost_roles_interfaces_are_put_back(
    wire: Wire, role: Role, number: signal.Signals, moment: str
) -> None:
    before = {i: wire.state("router", i) for i in ("to-server", "to-device")}
    role.shape("to-server", "to-device")
    assert len(journals(wire)) == 2
    if moment == "in a run":
        role.start(uplink=constant(MBIT), downlink=constant(MBIT))
        role.ask("go", "went")
    watchdog = os.pidfd_open(watchdog_of(role.process.pid))
    role.process.send_signal(number)
    await_end(watchdog)
    for interface, was in before.items():
        assert differences(was, wire.state("router", interface)) == ()
    assert journals(wire) == []
    assert role.process.wait(timeout=5) == -signal.SIGKILL


def test_an_interface_whose_role_is_killed_in_an_outage_knows_its_neighbours_again(
    wire: Wire, role: Role
) -> None:
    told = {"dst": "10.77.1.9", "lladdr": "02:00:00:00:00:09"}
    with ExitStack() as stack:
        ipr = stack.enter_context(IPRoute(netns=wire.names["router"], flags=0))
        (index,) = ipr.link_lookup(ifname="to-server")
        ipr.neigh("add", ifindex=index, state=NUD_PERMANENT, **told)
        stack.callback(lambda: ipr.neigh("del", ifindex=index, **told))
        before = wire.state("router", "to-server")
        assert before["neighbours"] == [told]
        role.shape("to-server")
        side = {"interface": "to-server", "rate_bps": MBIT, "queue_bytes": QUEUE_BYTES}
        cut = {**constant(MBIT), "duration_ns": 60 * 10**9, "outages": [[10**7, 30 * 10**9]]}
        down = {"uplink": {**side, "outage": "down"}}
        role.ask("start", "started", run_id="r", schedules={"uplink": cut}, directions=down)
        role.ask("go", "went")
        while not role.records or not role.records[-1].get("outage_ns"):
            role.expect_record()
        assert wire.state("router", "to-server")["neighbours"] == []
        watchdog = os.pidfd_open(watchdog_of(role.process.pid))
        role.process.kill()
        await_end(watchdog)
        assert differences(before, wire.state("router", "to-server")) == ()


def test_a_second_campaign_is_told_who_holds_the_link(wire: Wire, role: Role) -> None:
    tree = {"interface": "to-server", "rate_bps": MBIT, "queue_bytes": 30_000}
    role.ask("setup", "ready", directions={"uplink": tree}, owner="campaign first of me")
    with ExitStack() as stack:
        second = Role(wire.names["router"])
        stack.callback(second.close)
        error = second.ask("setup", "error", directions={"uplink": tree}, owner="second")
        assert error["user"]
        told = f"to-server: the link is held by campaign first of me (process {role.process.pid}"
        assert told in error["message"]
        (line,) = recover(wire, "restore")
        assert line["held"]
        (shown,) = recover(wire, "show")
        assert (shown["owner"], shown["held"]) == ("campaign first of me", True)
        assert shown["state"]["qdiscs"][0]["handle"] == "5d7b:"
        role.ask("restore", "restored")
        assert journals(wire) == []
        second.ask("setup", "ready", directions={"uplink": tree})


def test_a_refused_setup_holds_nothing(wire: Wire, role: Role) -> None:
    sides = {
        name: {"interface": interface, "rate_bps": MBIT, "queue_bytes": 30_000}
        for name, interface in (("uplink", "to-server"), ("downlink", "nowhere"))
    }
    assert role.ask("setup", "error", directions=sides)["user"]
    assert journals(wire) == []
    role.shape("to-server", "to-device")


def test_clear_ends_the_holder(wire: Wire, role: Role) -> None:
    before = wire.state("router", "to-server")
    role.shape("to-server")
    (line,) = recover(wire, "clear")
    assert line == {"interface": f"role {role.process.pid}", "ok": True, "text": "ended"}
    assert role.process.wait(timeout=5) == 128 + signal.SIGTERM
    assert differences(before, wire.state("router", "to-server")) == ()


@pytest.mark.parametrize("remedy", ["restore", "the next role"])
def test_a_stale_journal_is_replayed(wire: Wire, remedy: str) -> None:
    before = wire.state("router", "to-server")
    with ExitStack() as stack:
        killed = Role(wire.names["router"])
        stack.callback(killed.close)
        killed.shape("to-server")
        # Both at once, as when the power of one host of a lab goes: nobody is left to act.
        os.kill(watchdog_of(killed.process.pid), signal.SIGKILL)
        killed.process.kill()
        killed.process.wait()
    assert differences(before, wire.state("router", "to-server"))
    if remedy == "restore":
        (line,) = recover(wire, "restore")
        assert (line["ok"], line["text"]) == (True, "put back as it was")
        assert recover(wire, "restore") == []
    else:
        with ExitStack() as stack:
            after = Role(wire.names["router"])
            stack.callback(after.close)
            ready = after.shape("to-server")
            assert differences(before, ready["before"]["to-server"]) == ()
    assert differences(before, wire.state("router", "to-server")) == ()
    assert journals(wire) == []


def test_the_watchdogs_patience_leaves_time_to_restore_within_five_seconds() -> None:
    assert PATIENCE_S + SECOND_LOOK_S <= 4.0


def test_a_role_whose_watchdog_was_killed_still_restores(wire: Wire, role: Role) -> None:
    before = wire.state("router", "to-server")
    role.shape("to-server")
    os.kill(watchdog_of(role.process.pid), signal.SIGKILL)
    role.ask("restore", "restored")
    assert role.end() == 0
    assert differences(before, wire.state("router", "to-server")) == ()
