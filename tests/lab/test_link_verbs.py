"""The link outside a campaign, as a user meets it, and what is left when somebody dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.lab import Lab
from tests.bench.kill_matrix import BOUND_S, ROOT, VICTIMS, Router, a_lab, kill_one

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab() -> Iterator[tuple[Lab, Router]]:
    with a_lab() as made:
        yield made


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "testbed", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_check_finds_the_lab_fit_and_its_link_true(lab: tuple[Lab, Router]) -> None:
    done = command("check", "--link", "--lab", lab[0].lab_id, "--json")
    document = json.loads(done.stdout)
    failed = [finding for finding in document["findings"] if finding["state"] == "fail"]
    assert (done.returncode, failed) == (0, []), done.stderr
    checks = {(finding["host"], finding["check"]) for finding in document["findings"]}
    assert {(host, "SSH") for host in ("device", "router", "server")} <= checks
    assert {("router", "kernel htb"), ("server", "data port"), ("device", "clock")} <= checks
    assert {("link", "uplink"), ("link", "downlink"), ("link", "round trip")} <= checks
    assert not lab[1].changed()


def test_a_host_that_does_not_answer_is_one_failed_line(tmp_path: Path) -> None:
    inventory = tmp_path / "lab.yaml"
    inventory.write_text("""
schema_version: 1
hosts:
  pi: {roles: [device], address: 127.0.0.1, port: 1, data: {interface: a, address: 10.0.0.1}}
  pc: {roles: [server], address: 127.0.0.1, port: 1, data: {interface: b, address: 10.0.0.2}}
""")
    done = command("check", "-i", str(inventory), "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["counts"] == {"pass": 0, "warn": 0, "fail": 2}
    for finding in document["findings"]:
        assert finding["check"] == "SSH"
        assert "root@127.0.0.1:1" in finding["text"]
        assert finding["remedy"]


def test_set_shapes_counts_and_puts_back(lab: tuple[Lab, Router]) -> None:
    made, router = lab
    uplink = "{rate: 20mbit, queue: 100kB}"
    arguments = ["--uplink", uplink, "--downlink", "40mbit", "--duration", "1.2s", "--json"]
    done = command("link", "set", *arguments, "--lab", made.lab_id)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document["samples"]) == {"uplink", "downlink"}
    (ended,) = document["done"].values()
    assert set(ended["counters"]) == {"uplink", "downlink"}
    assert not router.changed()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["set", "--uplink", "20 mbps!", "--downlink", "1mbit"], "uplink.rate: expected"),
        (["set", "--uplink", "{rate: 1mbit, colour: red}", "--downlink", "1mbit"], "colour"),
        (["set", "--uplink", "{rate", "--downlink", "1mbit"], "uplink:1:6: not valid YAML"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str) -> None:
    done = command("link", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert says in line


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("moment_s", [0.2, 1.2])
def test_kill_9_leaves_the_link_as_it_was(
    lab: tuple[Lab, Router], victim: str, moment_s: float
) -> None:
    if victim == "sshd":
        with a_lab() as (made, router):  # it does not outlive its listener
            outcome = kill_one(made, router, victim, moment_s)
    else:
        outcome = kill_one(*lab, victim, moment_s)
    assert outcome.back_s <= BOUND_S
