"""The router with a kernel of its own, with the link role on it, as a campaign uses it."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from testbed.config import load_inventory
from testbed.hosts.connection import connect_all
from testbed.hosts.deploy import deploy
from testbed.hosts.role import RoleProcess
from testbed.lab import Lab, down_all
from testbed.lab.network import in_namespace
from testbed.link.netem import Gilbert, Netem
from testbed.link.state import differences

pytestmark = pytest.mark.lab
MBIT = 10**6
MS = 10**6
INVENTORY = """\
schema_version: 1
lab: local
hosts:
  device: {roles: [device]}
  router: {roles: [link], router: {kind: uml}}
  server: {roles: [server]}
"""


RATE_BPS = 20 * MBIT
_SIDE = {"rate_bps": RATE_BPS, "queue_bytes": 200_000, "peak_bps": RATE_BPS}
_DOWNLINK = {**_SIDE, "interface": "to-device"}


def _uplink(netem: Netem | None, outage: str | None = None) -> dict[str, Any]:
    told = {"outage": outage} if outage else {}
    return {
        **_SIDE,
        "interface": "to-server",
        "netem": netem.to_json() if netem else None,
        **told,
    }


class Bench:
    """A lab with its link role, and UDP between device and server."""

    def __init__(self, lab: Lab, role: RoleProcess) -> None:
        self.lab = lab
        self.role = role
        self.records: list[dict[str, Any]] = []
        self.ready: dict[str, Any] = {}
        data = lab.inventory.hosts["server"].data
        assert data is not None
        self.address = str(data.address)

    def sockets(self) -> tuple[socket.socket, socket.socket]:
        def make() -> socket.socket:
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

        device, server = (
            in_namespace(f"tb-{self.lab.lab_id}-{host}", make) for host in ("device", "server")
        )
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        server.bind((self.address, 0))
        for one in (device, server):
            one.settimeout(0.5)
        return device, server

    def set_up(self, netem: Netem) -> dict[str, Any]:
        directions = {"uplink": _uplink(netem), "downlink": _DOWNLINK}
        return self.role.request({"type": "setup", "directions": directions}, "ready", 30)

    def shape(self, netem: Netem | None, outage: str | None = None, **uplink: Any) -> None:
        """What the next run's uplink does; ``uplink`` is of its schedule."""
        constant = {"changes": [[0, RATE_BPS]], "duration_ns": 10**9, "end": "hold"}
        message = {
            "type": "start",
            "run_id": "r",
            "schedules": {"uplink": {**constant, **uplink}, "downlink": constant},
            "directions": {"uplink": _uplink(netem, outage), "downlink": _DOWNLINK},
        }
        self.role.request(message, "started", 30)

    def send(self, count: int, gap_s: float = 0.0) -> list[tuple[int, float]]:
        """Numbers of the packets that reach the server, with the time that each was under way."""
        device, server = self.sockets()
        arrived = []
        with device, server:
            target = server.getsockname()
            for number in range(count):
                device.sendto(f"{number} {time.monotonic()}".encode(), target)
                time.sleep(gap_s)
            while True:
                try:
                    text, sent_s = server.recv(100).split()
                except TimeoutError:
                    return arrived
                arrived.append((int(text), time.monotonic() - float(sent_s)))

    def trips_s(self, count: int) -> list[float]:
        device, server = self.sockets()
        trips = []
        with device, server:
            for _ in range(count):
                begin_s = time.monotonic()
                device.sendto(b"x", server.getsockname())
                server.recv(10)
                trips.append(time.monotonic() - begin_s)
        return trips


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("uml")
    (folder / "lab.yaml").write_text(INVENTORY)
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("TESTBED_RUN_DIR", str(folder / "run"))
        said: list[str] = []
        lab = stack.enter_context(Lab.up(load_inventory(folder / "lab.yaml"), say=said.append))
        assert said[-1] == "lab: the router is a user-mode Linux guest, as the inventory asks"
        assert lab.router_kind == "uml"
        connection = stack.enter_context(connect_all(lab.inventory.hosts))["router"]
        made: list[Bench] = []
        role = RoleProcess.start(
            connection,
            "link",
            deploy(connection, {"link"}),
            log=folder / "link.log",
            on_record=lambda role, file, record: made[0].records.append(record),
        )
        stack.callback(role.close)
        made.append(Bench(lab, role))
        # Once: a set-up starts a process, which takes seconds in the guest; reshaping starts none.
        ready = made[0].ready = made[0].set_up(Netem(delay_ns=20 * MS))
        yield made[0]
        after = role.request({"type": "restore"}, "restored", 30)["after"]
        for interface, before in ready["before"].items():
            assert differences(before, after[interface]) == ()


def test_the_guest_has_netem_and_delays_by_it(bench: Bench) -> None:
    assert bench.role.hello["netem"] is True
    told = bench.ready["tc"]["uplink"]
    assert any("netem limit" in line and "delay 20ms" in line for line in told)
    bench.shape(None)
    base_s = statistics.median(bench.trips_s(30))
    bench.shape(Netem(delay_ns=20 * MS))
    added_s = statistics.median(bench.trips_s(30)) - base_s
    assert 0.019 < added_s < 0.024


def test_jitter_spreads_delays_and_keeps_the_order(bench: Bench) -> None:
    bench.shape(Netem(delay_ns=20 * MS, jitter_ns=5 * MS, distribution="normal"))
    spread = [trip_s for _, trip_s in bench.send(1)] + bench.trips_s(60)
    assert statistics.stdev(spread) > 0.002
    numbers = [number for number, _ in bench.send(150)]
    assert len(numbers) == 150
    assert numbers == sorted(numbers)
    bench.shape(Netem(delay_ns=20 * MS, reorder=0.25))
    numbers = [number for number, _ in bench.send(150)]
    assert sorted(numbers) == list(range(150))
    assert numbers != sorted(numbers)


def test_loss_random_and_in_bursts(bench: Bench) -> None:
    bench.shape(Netem(loss=0.1))
    # 1000 packets at 10 %: within 5.3 standard deviations of the binomial.
    assert 850 <= len(bench.send(1000)) <= 950
    model = Gilbert(to_bad=0.02, to_good=0.2)
    bench.shape(Netem(gilbert=model))
    numbers = [number for number, _ in bench.send(1000)]
    lost = sorted(set(range(1000)) - set(numbers))
    bursts = [number for number in lost if number - 1 not in lost]
    assert 0 < len(lost) < 300
    assert len(lost) / len(bursts) > 2  # of 5 packets on average; of 1.1 were they independent


def test_duplicates_and_corruption(bench: Bench) -> None:
    bench.shape(Netem(duplicate=0.5))
    numbers = [number for number, _ in bench.send(200)]
    assert set(numbers) == set(range(200))
    assert 230 < len(numbers) < 370
    bench.shape(Netem(corrupt=1.0))
    assert len(bench.send(50)) < 25  # a flipped bit fails the checksum of almost every packet


def test_the_delay_does_not_cost_queue_or_rate(bench: Bench) -> None:
    bench.shape(Netem(delay_ns=100 * MS))
    # 132 packets fill a queue of 200 kB alone; 167 under way for 100 ms have room of their own.
    assert len(bench.send(280)) == 280


@pytest.mark.parametrize("outage", ["drop", "hold", "down"])
def test_an_outage_begins_ends_and_is_logged(bench: Bench, outage: str) -> None:
    bench.shape(None, outage, outages=[[100 * MS, 400 * MS]])
    bench.records.clear()
    bench.role.request({"type": "go"}, "went", 30)
    arrived = dict(bench.send(80, gap_s=0.01))
    bench.role.stop()
    done = bench.role.wait("done", 30)
    assert done["counters"]["uplink"]["packets"] > 0
    changes = [r for r in bench.records if r["direction"] == "uplink" and "n" in r]
    assert [(c["rate_bps"], c.get("outage"), c.get("outage_ns")) for c in changes] == [
        (20 * MBIT, None, None),
        (0, outage, 400 * MS),
        (20 * MBIT, None, None),
    ]
    assert changes[2]["t_planned_ns"] - changes[1]["t_planned_ns"] == 400 * MS
    missing = set(range(80)) - set(arrived)
    if outage == "hold":
        assert missing == set()
        assert max(arrived.values()) > 0.25
    else:
        assert 15 <= len(missing) <= 60
    assert 79 in arrived


def test_a_killed_guest_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_RUN_DIR", str(tmp_path / "run"))
    (tmp_path / "lab.yaml").write_text(INVENTORY)
    lab = Lab.up(load_inventory(tmp_path / "lab.yaml"))
    marker = f"{tmp_path}/run/".encode()

    def processes() -> list[int]:
        return [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if marker in path.read_bytes()
        ]

    kernel = [p for p in processes() if b"linux.uml" in Path(f"/proc/{p}/cmdline").read_bytes()]
    assert kernel
    os.kill(min(kernel), signal.SIGKILL)
    down_all()
    lab.down()
    assert processes() == []
    assert os.listdir(tmp_path / "run") == []
