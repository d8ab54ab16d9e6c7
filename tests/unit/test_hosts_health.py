"""How fit a host is: read on this machine, judged on made-up ones."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from testbed.config import Host
from testbed.hosts.clock import ClockOffset
from testbed.hosts.connection import REMOTE
from testbed.hosts.environment import Environment
from testbed.hosts.health import (
    Health,
    interfaces_of,
    judge_clock,
    judge_health,
    judge_modules,
)

SERVER = Host.model_validate(
    {
        "roles": ["server"],
        "address": "192.0.2.1",
        "data": {"interface": "eth1", "address": "10.0.0.1", "port": 7010},
    }
)
LINK = {
    "mtu": 1500,
    "speed_mbps": 1000,
    "state": "up",
    "offloads": {"tso": True, "gso": False, "gro": None},
}
GOOD = Health({"eth1": LINK}, 0.03, 0.0, 0, "0x50000", 50.0, None)


def ask(**asked: object) -> Health:
    told = subprocess.run(
        [sys.executable, str(REMOTE / "health.py"), json.dumps({"sample_s": 0.05, **asked})],
        capture_output=True,
        check=True,
    )
    return Health(**json.loads(told.stdout))


@pytest.fixture(scope="module")
def facts() -> Environment:
    asked = [sys.executable, str(REMOTE / "facts.py"), "{}"]
    told = subprocess.run(asked, capture_output=True, check=True)
    return replace(Environment(**json.loads(told.stdout)), governor="performance")


def states(facts: Environment, health: Health, highest_bps: int | None = None) -> dict[str, str]:
    found = judge_health("pi", SERVER, facts, health, highest_bps)
    return {finding.check: finding.state for finding in found}


def test_this_machines_loopback_and_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = ask(interfaces=["lo", "nowhere"], bind=taken.getsockname())
    assert busy.links["nowhere"] is None
    assert busy.links["lo"] is not None
    assert busy.links["lo"]["state"] == "up"
    assert busy.links["lo"]["mtu"] > 1500
    assert set(busy.links["lo"]["offloads"]) == {"tso", "gso", "gro"}
    assert busy.bind_fault == "Address already in use"
    assert 0 <= busy.steal_share <= 1
    assert 0 <= busy.busy_share <= 1
    assert ask(interfaces=[], bind=["127.0.0.1", 0]).bind_fault is None


def test_a_fit_host_passes_everything(facts: Environment) -> None:
    assert set(states(facts, GOOD, 800 * 10**6).values()) == {"pass"}


@pytest.mark.parametrize(
    ("change", "check", "state"),
    [
        ({"links": {"eth1": {**LINK, "state": "down"}}}, "interface eth1", "fail"),
        ({"links": {"eth1": {**LINK, "speed_mbps": 100}}}, "interface eth1", "fail"),
        ({"links": {"eth1": {**LINK, "speed_mbps": None}}}, "interface eth1", "pass"),
        ({"links": {"eth1": {**LINK, "mtu": 9000}}}, "interface eth1", "warn"),
        ({"busy_share": 0.3}, "background load", "warn"),
        ({"steal_share": 0.06}, "steal", "warn"),
        ({"throttled": 2}, "throttling", "warn"),
        ({"board_throttled": "0x50005"}, "throttling", "warn"),
        ({"celsius": 90.0}, "throttling", "warn"),
        ({"bind_fault": "Address already in use"}, "data port", "fail"),
    ],
)
def test_each_disturbance_is_found(facts: Environment, change, check: str, state: str) -> None:
    found = states(facts, replace(GOOD, **change), 90 * 10**6)
    assert found.pop(check) == state
    assert set(found.values()) == {"pass"}


def test_a_scaling_governor_is_a_warning(facts: Environment) -> None:
    assert states(replace(facts, governor="ondemand"), GOOD)["CPU governor"] == "warn"


def test_a_vague_clock_is_a_warning() -> None:
    assert judge_clock("pi", ClockOffset(5, 40_000, 60, 0)).state == "pass"
    assert judge_clock("pi", ClockOffset(5, 4_000_000, 60, 0)).state == "warn"


@pytest.mark.parametrize(
    ("tried", "needs_netem", "state"),
    [
        ({"htb": True}, False, "pass"),
        ({"htb": False}, False, "fail"),
        ({"htb": None}, False, "fail"),
        ({"netem": False}, False, "warn"),
        ({"netem": False}, True, "fail"),
        ({"ifb": False}, True, "warn"),
    ],
)
def test_only_what_is_needed_must_be_there(tried, needs_netem: bool, state: str) -> None:
    (finding,) = judge_modules("pi", tried, needs_netem)
    assert finding.state == state
    assert (state == "pass") == (finding.remedy == "")


def test_the_data_paths_interfaces_are_looked_at() -> None:
    assert interfaces_of(SERVER) == ["eth1"]
    router = {"roles": ["link"], "router": {"to_device": "eth0", "to_server": "eth2"}}
    assert interfaces_of(Host.model_validate(router)) == ["eth0", "eth2"]
