"""The link role, as a process in a namespace of its own, under real traffic."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ndmsg import NUD_PERMANENT

from testbed import framing
from testbed.errors import UserError
from testbed.lab.network import in_namespace
from testbed.link.host import refuse_management_path
from testbed.link.neighbours import announcement
from testbed.link.state import differences
from tests.lab.wire import MBIT, QUEUE_BYTES, Role, Wire, constant

pytestmark = pytest.mark.lab

UDP_PAYLOAD_BYTES = framing.MTU_BYTES - 28


def udp_throughput_bps(wire: Wire, offered_bps: int, seconds: float) -> float:
    """IP bits per second that reach the server while the device offers more than the rate."""
    packet = bytes(UDP_PAYLOAD_BYTES)
    gap_s = framing.MTU_BYTES * 8 / offered_bps
    with wire.socket("server", socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        receiver.bind(("10.77.1.2", 0))
        address = receiver.getsockname()

        def send() -> None:
            begin_s, sent = time.monotonic(), 0
            with wire.socket("device", socket.SOCK_DGRAM) as sender:
                while (elapsed_s := time.monotonic() - begin_s) < seconds:
                    while sent * gap_s <= elapsed_s:
                        sender.sendto(packet, address)
                        sent += 1
                    time.sleep(0.002)

        thread = threading.Thread(target=send)
        thread.start()
        receiver.recv(2048)
        first_s = last_s = time.monotonic()
        received = 0
        receiver.settimeout(0.5)
        while last_s - first_s < 2 * seconds:
            try:
                receiver.recv(2048)
            except TimeoutError:
                break
            received, last_s = received + 1, time.monotonic()
        thread.join()
    return received * framing.MTU_BYTES * 8 / (last_s - first_s)


def tcp_throughput_bps(wire: Wire, payload_bytes: int, port: int = 0) -> float:
    """IP bits per second of one TCP payload from the device to the server."""
    with wire.socket("server", socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("10.77.1.2", port))
        listener.listen(1)
        with wire.socket("device", socket.SOCK_STREAM) as sender:
            sender.connect(listener.getsockname())
            receiver, _ = listener.accept()
            with receiver:
                thread = threading.Thread(target=sender.sendall, args=(bytes(payload_bytes),))
                thread.start()
                received = len(receiver.recv(1 << 16))
                first_bytes, first_s = received, time.monotonic()
                while received < payload_bytes:
                    received += len(receiver.recv(1 << 16))
                span_s = time.monotonic() - first_s
                thread.join()
    return framing.ip_bytes(received - first_bytes) * 8 / span_s


@pytest.mark.parametrize("rate_bps", [5 * MBIT, 20 * MBIT])
def test_udp_and_tcp_are_carried_at_the_rate(wire: Wire, role: Role, rate_bps: int) -> None:
    ready = role.shape("to-server", "to-device", rate_bps=rate_bps)
    assert ready["class_bps"]["uplink"] >= framing.class_rate_bps(rate_bps)
    before = role.start(uplink=constant(rate_bps), downlink=constant(rate_bps))["counters"]
    role.ask("go", "went")
    assert udp_throughput_bps(wire, 2 * rate_bps, 0.6) == pytest.approx(rate_bps, rel=0.1)
    assert tcp_throughput_bps(wire, rate_bps // 16) == pytest.approx(rate_bps, rel=0.1)
    done = role.ask("stop", "done")
    assert done["counters"]["uplink"]["drops"] > before["uplink"]["drops"]
    samples = [
        r["sample"]["bytes"] for r in role.records if r["direction"] == "uplink" and "sample" in r
    ]
    assert samples
    assert samples == sorted(samples)
    assert done["counters"]["uplink"]["bytes"] >= samples[-1]


def test_at_the_senders_egress_no_super_packet_slips_through(wire: Wire) -> None:
    payload_bytes, rate_bps = 60_000, 5 * MBIT
    with IPRoute(netns=wire.names["device"], flags=0) as ipr:
        (index,) = ipr.link_lookup(ifname="data")
        ipr.link("set", index=index, gso_max_segs=64)
        with ExitStack() as stack:
            stack.callback(lambda: ipr.link("set", index=index, gso_max_segs=1))
            role = Role(wire.names["device"])
            stack.callback(role.close)
            role.shape("data", rate_bps=rate_bps)
            begin_s = time.monotonic()
            tcp_throughput_bps(wire, payload_bytes)
            took_ns = (time.monotonic() - begin_s) * 1e9
            role.ask("restore", "restored")
            assert ipr.get_links(index)[0].get_attr("IFLA_GSO_MAX_SEGS") == 64
    # Half of the theory: with super-packets it is a hundredth, and noise only adds to it.
    assert took_ns > framing.serialisation_ns(payload_bytes, rate_bps) / 2


def test_rate_changes_follow_the_schedule(wire: Wire, role: Role) -> None:
    role.shape("to-server", "to-device")
    step_ns = 200_000_000
    looping = {"changes": [[0, 5 * MBIT], [step_ns, 15 * MBIT]], "duration_ns": 2 * step_ns}
    role.start(uplink={**looping, "end": "loop"}, downlink=constant(8 * MBIT))
    t0_ns = role.ask("go", "went")["t0_ns"]
    # Whole periods of 5 and 15 Mbit/s, so the mean is 10 wherever they begin.
    assert udp_throughput_bps(wire, 30 * MBIT, 1.6) == pytest.approx(10 * MBIT, rel=0.1)
    done = role.ask("stop", "done")
    uplink = [r for r in role.records if r["direction"] == "uplink" and "n" in r]
    assert len(uplink) >= 8
    assert [r["n"] for r in uplink] == list(range(len(uplink)))
    assert [r["t_planned_ns"] for r in uplink] == [t0_ns + n * step_ns for n in range(len(uplink))]
    assert [r["rate_bps"] for r in uplink] == [
        (5 if n % 2 == 0 else 15) * MBIT for n in range(len(uplink))
    ]
    assert all(
        r["late_ns"] == r["t_applied_ns"] - r["t_planned_ns"] >= r["took_ns"] for r in uplink
    )
    assert done["changes"] == len(uplink) + 1
    assert done["late_max_ns"] >= done["late_p99_ns"] > 0
    last = uplink[-1]["class_bps"] // 8
    (shaped,) = [c for c in done["shaped"]["to-server"]["classes"] if c["handle"] == "5d7b:1"]
    assert shaped["options"]["TCA_HTB_PARMS"]["rate"] == last


def test_runs_follow_each_other_and_the_tree_stays(wire: Wire, role: Role) -> None:
    role.shape("to-server")
    schedule = {"changes": [[0, 2 * MBIT]], "duration_ns": 1000, "end": "stop"}
    for _ in range(2):
        role.start(uplink=schedule)
        role.ask("go", "went")
        role.expect_record()
        assert role.ask("stop", "done")["changes"] == 1
    # What a run's outages do may be told with it: links of one campaign differ in it.
    cut = {"uplink": {**schedule, "outages": [[100, 500]]}}
    error = role.ask("start", "error", run_id="r", schedules=cut)
    assert "nothing said what they do" in error["message"]
    side = {"interface": "to-server", "rate_bps": MBIT, "queue_bytes": QUEUE_BYTES}
    dropping = {"uplink": {**side, "outage": "drop"}}
    role.ask("start", "started", run_id="r", schedules=cut, directions=dropping)
    state = wire.state("router", "to-server")
    assert state["qdiscs"][0]["handle"] == "5d7b:"


def test_after_an_outage_neighbours_need_not_ask(wire: Wire, role: Role) -> None:
    role.shape("to-server")
    side = {"interface": "to-server", "rate_bps": MBIT, "queue_bytes": QUEUE_BYTES}
    ms = 1_000_000
    cut = {"changes": [[0, MBIT]], "duration_ns": 60 * ms, "end": "stop"}
    cut["outages"] = [[10 * ms, 20 * ms]]
    mine = {"dst": "10.77.1.9", "lladdr": "02:00:00:00:00:09", "state": NUD_PERMANENT}
    with ExitStack() as stack:
        ipr = stack.enter_context(IPRoute(netns=wire.names["router"], flags=0))
        (index,) = ipr.link_lookup(ifname="to-server")
        hardware = bytes.fromhex(ipr.get_links(index)[0].get_attr("IFLA_ADDRESS").replace(":", ""))
        ipr.neigh("add", ifindex=index, **mine)
        stack.callback(lambda: ipr.neigh("del", ifindex=index, **mine))
        arp = in_namespace(
            wire.names["server"],
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)),
        )
        stack.callback(arp.close)
        arp.settimeout(5)
        down = {"uplink": {**side, "outage": "down"}}
        role.ask("start", "started", run_id="r", schedules={"uplink": cut}, directions=down)
        role.ask("go", "went")
        while arp.recv(2048)[:42] != announcement(hardware, "10.77.1.1"):
            pass  # what others ask meanwhile
        assert role.ask("stop", "done")["changes"] == 3
        known = {
            entry.get_attr("NDA_DST"): (entry.get_attr("NDA_LLADDR"), entry["state"])
            for entry in ipr.get_neighbours(family=socket.AF_INET, ifindex=index)
        }
        assert known[mine["dst"]] == (mine["lladdr"], NUD_PERMANENT)


def test_the_interface_that_carries_ssh_is_refused(wire: Wire) -> None:
    environ = {"SSH_CONNECTION": "10.77.1.2 50000 10.77.1.1 22"}
    with IPRoute(netns=wire.names["router"], flags=0) as ipr:
        with pytest.raises(
            UserError, match=r"to-server: carries the SSH connection from 10\.77\.1\.2"
        ):
            refuse_management_path(ipr, ["to-device", "to-server"], environ)
        refuse_management_path(ipr, ["to-device"], environ)


def test_the_greeting_tells_the_host(wire: Wire, role: Role) -> None:
    assert role.hello["netem"] in (True, False)
    assert len(role.hello["psched"].split()) == 4
    assert role.hello["sysctls"]["net.ipv4.ip_forward"] == "1"
    assert (
        role.hello["congestion_control"] == role.hello["sysctls"]["net.ipv4.tcp_congestion_control"]
    )


def test_what_arrives_is_shaped_at_the_receiver(wire: Wire) -> None:
    rate_bps = 5 * MBIT
    before = wire.state("server", "data")
    with ExitStack() as stack:
        role = Role(wire.names["server"])
        stack.callback(role.close)
        side = {"interface": "data", "rate_bps": rate_bps, "queue_bytes": QUEUE_BYTES}
        role.ask("setup", "ready", directions={"uplink": {**side, "ingress": True}})
        assert tcp_throughput_bps(wire, rate_bps // 16) == pytest.approx(rate_bps, rel=0.1)
        role.ask("restore", "restored")
    assert differences(before, wire.state("server", "data")) == ()
    with IPRoute(netns=wire.names["server"], flags=0) as ipr:
        assert {link.get_attr("IFLA_IFNAME") for link in ipr.get_links()} == {"lo", "data"}


@pytest.mark.parametrize("ingress", [False, True])
def test_one_flow_is_shaped_and_its_neighbours_are_not(wire: Wire, ingress: bool) -> None:
    """At 300 kbit/s another connection over the same interface, as SSH's, goes on at full speed."""
    who, peer = ("server", "10.77.0.2") if ingress else ("device", "10.77.1.2")
    flow = {"peer": peer, "ports": [7010], "peer_is_server": not ingress}
    side = {"interface": "data", "rate_bps": 300_000, "queue_bytes": QUEUE_BYTES}
    with ExitStack() as stack:
        role = Role(wire.names[who])
        stack.callback(role.close)
        ready = role.ask(
            "setup", "ready", directions={"uplink": {**side, "ingress": ingress, "flow": flow}}
        )
        assert "match u32" in ready["tc"]["uplink"][-1]
        begin_s = time.monotonic()
        assert tcp_throughput_bps(wire, 500_000) > 10 * MBIT
        # 500 kB at 300 kbit/s last 13 s.
        assert time.monotonic() - begin_s < 5
        shaped_bps = tcp_throughput_bps(wire, 40_000, port=7010)
        role.ask("restore", "restored")
    assert shaped_bps < 600_000
