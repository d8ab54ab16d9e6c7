from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.config import Host, load_inventory
from testbed.errors import UserError
from testbed.hosts.connection import REMOTE
from testbed.hosts.environment import Environment
from testbed.hosts.preflight import Finding, judge, require, shaping_hosts


def ask(**asked: object) -> Environment:
    done = subprocess.run(
        [sys.executable, str(REMOTE / "facts.py"), json.dumps(asked)],
        env={**os.environ, "SSH_CONNECTION": "127.0.0.1 40000 127.0.0.1 22"},
        capture_output=True,
        check=True,
    )
    return Environment(**json.loads(done.stdout))


@pytest.fixture(scope="module")
def here() -> Environment:
    return ask(pid=os.getpid())


@pytest.fixture(scope="module")
def good(here) -> Environment:
    return replace(
        here,
        python="3.10.4",
        torch="2.13.0+cpu",
        root=False,
        sudo=True,
        disk_free_bytes=10**10,
        interfaces={"eth0": ["192.0.2.1"], "eth1": ["10.0.0.1"]},
        ssh_interfaces=["eth0"],
        gpus=[],
    )


HOST = Host.model_validate(
    {
        "roles": ["device"],
        "address": "192.0.2.1",
        "sudo": True,
        "data": {"interface": "eth1", "address": "10.0.0.1"},
    }
)


def failed(host: Host, facts: Environment, shapes: bool = False) -> list[Finding]:
    return [f for f in judge("pi", host, facts, shapes) if f.state == "fail"]


def test_facts_of_this_machine(here) -> None:
    assert here.kernel == os.uname().release
    assert here.python == sys.version.split()[0]
    assert here.interfaces["lo"][0] == "127.0.0.1"
    assert here.ssh_interfaces == ["lo"]
    assert here.cpu_count == os.cpu_count()
    assert here.memory_bytes is not None
    assert here.memory_available_bytes is not None
    assert here.memory_bytes > here.memory_available_bytes > 0
    assert here.root == (os.geteuid() == 0)
    assert here.torch is not None
    assert "net.ipv4.tcp_congestion_control" in here.sysctls
    assert here.qdiscs["lo"] == "noqueue"
    assert here.busy_share is None


def test_a_watched_host_tells_what_keeps_it_busy() -> None:
    share = ask(watch_s=0.1).busy_share
    assert share is not None
    assert 0 <= share <= 1


BURN = """
import time
while time.process_time() < 0.2:
    pass
print(time.process_time(), flush=True)
input()
"""


def test_cpu_time_is_told_of_the_processes_asked_about(here) -> None:
    argv = [sys.executable, "-c", BURN]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as burner:
        assert burner.stdout is not None
        spent_s = float(burner.stdout.readline())
        told = ask(own=[burner.pid, 2**30])  # the second is none
        burner.communicate("\n")
    assert told.own_ticks / told.ticks_per_s == pytest.approx(spent_s, abs=0.05)
    assert here.own_ticks == 0
    assert told.idle_ticks >= here.idle_ticks


def test_a_good_host_has_no_fault(good) -> None:
    assert failed(HOST, good, shapes=True) == []
    assert failed(HOST, replace(good, torch="2.2.2"), shapes=True) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"python": "3.9.2"}, "pi: python: expected ≥ 3.10, got 3.9.2; set hosts.pi.python"),
        ({"torch": None}, "pi: torch: not installed"),
        (
            {"torch": "2.1.2+cu121"},
            "pi: torch: expected ≥ 2.2 to read the model archive, got 2.1.2+cu121; install a newer",
        ),
        ({"sudo": False}, "'sudo -n true' is refused; let root use sudo without a password"),
        ({"disk_free_bytes": 10**8}, "expected 500 MB free for the cache folder, got 100 MB"),
        ({"interfaces": {"eth0": []}}, "hosts.pi.data.interface: no interface 'eth1'"),
        ({"interfaces": {"eth1": []}}, "expected address 10.0.0.1 on eth1, got none"),
        ({"ssh_interfaces": ["eth1"]}, "hosts.pi.data.interface: eth1 carries SSH"),
    ],
)
def test_each_fault_is_one_line_with_its_remedy(good, change, says) -> None:
    (finding,) = failed(HOST, replace(good, **change), shapes=True)
    assert says in str(finding)
    assert finding.remedy or "carries" in finding.text
    assert "\n" not in str(finding)


def test_an_interface_that_is_said_to_be_shared_may_carry_ssh(good) -> None:
    assert HOST.data is not None
    shared = HOST.model_copy(update={"data": HOST.data.model_copy(update={"shared": True})})
    assert failed(shared, replace(good, ssh_interfaces=["eth1"]), shapes=True) == []


def test_privilege_matters_only_where_something_is_shaped(good) -> None:
    plain = HOST.model_copy(update={"sudo": False})
    assert failed(plain, good) == []
    assert "sudo: true" in str(failed(plain, good, shapes=True)[0])
    assert failed(plain, replace(good, root=True), shapes=True) == []


def test_router_interfaces_are_checked_too(good) -> None:
    router = Host.model_validate(
        {
            "roles": ["link"],
            "address": "192.0.2.1",
            "router": {"to_device": "eth0", "to_server": "eth9"},
        }
    )
    told = [str(finding) for finding in failed(router, good)]
    assert [line.split(":")[1].strip() for line in told] == [
        "hosts.pi.router.to_device",
        "hosts.pi.router.to_server",
    ]


def test_without_a_router_both_senders_shape() -> None:
    hosts = {"a": Host(roles=("device",)), "b": Host(roles=("server",)), "c": Host(roles=("load",))}
    assert shaping_hosts(hosts) == {"a", "b"}
    assert shaping_hosts({**hosts, "r": Host(roles=("link",))}) == {"r"}


def test_the_example_inventory_is_accepted() -> None:
    inventory = load_inventory(Path(__file__).parents[2] / "inventory" / "lab.example.yaml")
    assert shaping_hosts(inventory.hosts) == set(inventory.hosts)


def test_every_failure_is_told_and_nothing_else() -> None:
    findings = [
        Finding("a", "python", "fail", "too old", "newer"),
        Finding("a", "disk", "pass", "10 GB free"),
        Finding("b", "accelerator", "warn", "no GPU"),
        Finding("b", "torch", "fail", "not installed", "install it"),
    ]
    with pytest.raises(UserError) as refused:
        require(findings)
    assert str(refused.value).splitlines() == [
        "a: python: too old; newer",
        "b: torch: not installed; install it",
    ]
    require(findings[1:3])
