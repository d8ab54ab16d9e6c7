"""Hosts whose one network card carries SSH and the data: only the data flow is shaped."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Interface
from pathlib import Path
from statistics import median

import pytest
from pyroute2 import IPRoute

from testbed.config import Inventory
from testbed.config.link import link_experiment
from testbed.lab import network, processes, sshd
from testbed.lab.journal import NETNS_DIR
from testbed.lab.layout import SSH_PORT, End, Seat, free_subnet
from testbed.lab.network import in_namespace
from testbed.orchestrator.link_proof import prove_link
from testbed.orchestrator.link_session import LinkSession
from testbed.orchestrator.plan import schedule_json
from testbed.traces.trace import Schedule

pytestmark = pytest.mark.lab
PORT, SLOW_BPS, QUEUE_BYTES = 7010, 100_000, 100_000
CARD, OUTSIDE = "eth0", f"one{os.getpid()}"
HOSTS = ("device", "server")


def _bring_up(ip: IPRoute, link: str, address: IPv4Interface | None, **more: int) -> None:
    (index,) = ip.link_lookup(ifname=link)
    if address is not None:
        ip.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
    ip.link("set", index=index, state="up", **more)


class Office:
    """Device and server with a card each on one switch, to which this machine is plugged too."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        own, *places = list(free_subnet(network.used_subnets()).hosts())[:3]
        self.own = IPv4Interface(f"{own}/24")
        self.hub = f"{OUTSIDE}-hub"
        self.seats = tuple(
            Seat(host, End(f"{OUTSIDE}-{host}", CARD, IPv4Interface(f"{at}/24")), "", self.own)
            for host, at in zip(HOSTS, places, strict=True)
        )

    def up(self) -> list[sshd.Listener]:
        for name in (self.hub, *(seat.namespace for seat in self.seats)):
            network.create(name)
        with IPRoute() as ip:
            ip.link(
                "add",
                ifname=OUTSIDE,
                kind="veth",
                peer={"ifname": "outside", "net_ns_fd": self.hub},
            )
            _bring_up(ip, OUTSIDE, self.own)
        in_namespace(self.hub, self._switch)
        for seat in self.seats:
            in_namespace(seat.namespace, lambda seat=seat: self._plug(seat))
        tools = sshd.find_tools()
        sshd.make_files(tools, self.run_dir, self.seats, {})
        return [sshd.start(tools, self.run_dir, seat) for seat in self.seats]

    def _switch(self) -> None:
        with IPRoute() as ip:
            ip.link("add", ifname="switch", kind="bridge")
            (switch,) = ip.link_lookup(ifname="switch")
            for seat in self.seats:
                peer = {"ifname": CARD, "net_ns_fd": seat.namespace}
                ip.link("add", ifname=seat.host, kind="veth", peer=peer)
            for port in ("outside", *HOSTS):
                _bring_up(ip, port, None, master=switch)
            _bring_up(ip, "switch", None)

    @staticmethod
    def _plug(seat: Seat) -> None:
        with IPRoute() as ip:
            _bring_up(ip, "lo", None)
            _bring_up(ip, CARD, seat.management.address)

    def down(self) -> None:
        names = [self.hub, *(seat.namespace for seat in self.seats)]
        # The listeners' own children, too: nothing tells them that their peers are gone.
        found = {processes.namespace_id(NETNS_DIR / name) for name in names}
        processes.end_all({one for one in found if one})
        network.remove(names, [OUTSIDE])

    def inventory(self, shaping: str) -> Inventory:
        hosts = {
            seat.host: {
                "roles": [seat.host],
                "address": (address := str(seat.management.address.ip)),
                "port": SSH_PORT,
                "user": "root",
                "key": str(self.run_dir / "client_key"),
                "known_hosts": str(self.run_dir / "known_hosts"),
                "data": {"interface": CARD, "address": address, "shared": True, "port": PORT},
            }
            for seat in self.seats
        }
        return Inventory.model_validate({"shaping": shaping, "hosts": hosts})

    def flood(self) -> None:
        """More of the data flow than the queues hold, both ways."""
        ends = {seat.host: str(seat.management.address.ip) for seat in self.seats}
        for host, other, own_port, port in (
            ("device", "server", 0, PORT),
            ("server", "device", PORT, 9),
        ):
            sender = in_namespace(
                f"{OUTSIDE}-{host}", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            )
            with sender:
                sender.bind((ends[host], own_port))
                for _ in range(2 * QUEUE_BYTES // 1500):
                    sender.sendto(bytes(1472), (ends[other], port))


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    made = Office(tmp_path_factory.mktemp("one"))
    with ExitStack() as stack:
        stack.callback(made.down)
        for listener in made.up():
            stack.callback(listener.process.wait, 10)
            stack.callback(listener.process.kill)
            sshd.wait_ready(listener)
        yield made


@pytest.mark.parametrize("shaping", ["ingress", "egress"])
def test_the_data_flow_is_slow_and_ssh_beside_it_is_not(
    office: Office, shaping: str, tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    side = {"rate": "2mbit", "queue": f"{QUEUE_BYTES}B"}
    experiment = link_experiment({"uplink": side, "downlink": side}, {})
    with LinkSession(
        experiment, office.inventory(shaping), tmp_path, lambda text: None, verifies=True
    ) as session:
        prove_link(session)
        assert session.link_faults == []  # the probers meet the queries' link
        for name, sides in session.link_roles.items():
            slow = {one: schedule_json(Schedule.constant(SLOW_BPS)) for one in sides}
            message = {"type": "start", "run_id": "slow", "schedules": slow}
            session.roles[name].request(message, "started", 30)
            session.roles[name].request({"type": "go"}, "went", 30)
        office.flood()
        trips_s = []
        for connection in session.connections.values():
            for _ in range(5):
                begun_s = time.monotonic()
                assert connection.run(["true"]).status == 0
                trips_s.append(time.monotonic() - begun_s)
        done = session.stop()
    backlogs = [side["backlog_bytes"] for one in done.values() for side in one["counters"].values()]
    # A queue of 100 kB lasts 8 s at 100 kbit/s: behind it, no command would have come back.
    assert len(backlogs) == 2
    assert min(backlogs) > QUEUE_BYTES / 2
    assert median(trips_s) < 0.3
    assert max(trips_s) < 2
