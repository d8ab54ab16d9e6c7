"""Whatever is wrong with a person's file is said in one line, with its place, and soon."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from testbed.config import Host, load_experiment, load_inventory
from testbed.config.document import read_mapping
from testbed.config.link import link_experiment, parse_direction
from testbed.errors import UserError
from testbed.hosts.address import require_keys
from tests.unit.test_config import EXPERIMENT, INVENTORY, changed

TEXT = yaml.safe_dump(EXPERIMENT)
LINES = TEXT.count("\n")


def refusal(path: Path, kind=load_experiment) -> str:
    with pytest.raises(UserError) as refused:
        kind(path)
    told = str(refused.value)
    assert told.startswith(str(path))
    assert "\n" not in told
    assert len(told) < 400 + len(str(path))
    return told.removeprefix(str(path))


def bomb(*, key: str) -> str:
    """Ten to the ninth values in ten lines."""
    letters = "abcdefghi"
    lines = [f"a: &a [{', '.join('x' * 10)}]"]
    lines += [
        f"{own}: &{own} [{', '.join([f'*{before}'] * 10)}]" for before, own in pairwise(letters)
    ]
    return "\n".join([*lines, f"{key}: *i", ""])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ": expected a mapping (key: value), got nothing"),
        ("- a\n", ": expected a mapping (key: value), got ['a']"),
        ("run\n", ": expected a mapping (key: value), got 'run'"),
        (TEXT + "run:\n\ttrials: 1\n", f":{LINES + 2}:1: not valid YAML: while scanning for"),
        (TEXT + "run:\n\ttrials: 1\n", "; indent with spaces"),
        (TEXT + "run: {trials: 1, trials: 2}\n", f":{LINES + 1}:18: not valid YAML: key 'trials'"),
        (TEXT + "run: {<<: {trials: 1}}\n", "'<<' is not taken here"),
        (TEXT + "? [a]\n: 1\n", ":3: not valid YAML: expected a name as key"),
        (TEXT + "1: 2\n", ": 1: expected text as key, got 1"),
        (TEXT + "run: &r {trials: *r}\n", "*r is within what it stands for"),
        (TEXT + bomb(key="crosses"), "expected at most 50000 values, aliases written out"),
        (
            TEXT + "run: " + "[" * 5000,
            f":{LINES + 1}:25: not valid YAML: expected at most 20 level",
        ),
        (TEXT + "description: 2020-99-99\n", "expected a date or number that there is, got '2020-"),
        (TEXT + f"batch: {'9' * 5000}\n", "expected a date or number that there is, got '99999"),
        (TEXT + 'description: "\\ud800"\n', "expected text without control characters"),
        (TEXT + "description: \0\n", f":{LINES + 1}: not valid YAML: expected text, got the char"),
        (TEXT + "batch: 010\n", "batch: expected a whole number, got '010'"),
        (TEXT + "batch: 1:30\n", "batch: expected a whole number, got '1:30'"),
        (TEXT + "batch: 1e999999\n", "batch: expected a whole number, got inf"),
        (
            TEXT + "description: " + "x" * 2**20,
            ": expected at most 1048576 bytes of YAML, got more",
        ),
        (TEXT.encode("utf-16"), ":1: expected text in UTF-8, got the byte 0xff"),
        (TEXT.encode() + b"\n\xe9", f":{LINES + 2}: expected text in UTF-8, got the byte 0xe9"),
    ],
)
def test_what_is_no_document(text, told, tmp_path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert told in refusal(path)


def test_what_is_no_file(tmp_path) -> None:
    assert refusal(tmp_path) == ": cannot be read: Is a directory"
    assert refusal(tmp_path / "absent.yaml") == ": cannot be read: No such file or directory"
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "expected a file, got a named pipe" in refusal(tmp_path / "pipe.yaml")


def test_what_a_shell_substitutes_is_read() -> None:
    readable, writable = os.pipe()
    with open(readable, "rb"):
        with open(writable, "wb") as end:
            end.write(b"name: piped\n")
        assert read_mapping(Path(f"/dev/fd/{readable}")) == {"name": "piped"}


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("run", {"trials": True}, "run.trials: expected a whole number, got True"),
        ("run", {"trials": 0}, "run.trials: expected 1 or more, got 0"),
        ("run", {"trials": 10**9}, "run.trials: expected 1000 or less, got 1000000000"),
        ("run", {"warmup_queries": 10**9}, "run.warmup_queries: expected 1000 or less"),
        ("run", {"duration": "9999999h"}, "run.duration: expected a duration such as"),
        ("run", {"duration": "9" * 400 + "h"}, "run.duration: expected a duration such as"),
        ("run", {"duration": "25h"}, "run.duration: expected 100ms to 24h, got '25h'"),
        ("run", {"timeout": "1e5s"}, "run.timeout: expected a duration such as"),
        ("run", {"hedge": "no"}, "run.hedge: expected true or false, got 'no'"),
        ("batch", 1.5, "batch: expected a whole number, got 1.5"),
        ("seed", -1, "seed: expected 0 or more, got -1"),
        ("model/seed", 10**30, "model.seed: expected less than"),
        ("model/name", "", "model.name: expected a line of text, got ''"),
        ("name", "a b", "name: expected letters, digits, - and _, 40 at most, got 'a b'"),
        ("links", {"a b": {}}, "links.a b: expected letters"),
        ("links/slow/uplink/rate", "1bit", "expected 1kbit to 1000gbit, got '1bit'"),
        ("links/slow/uplink/rate", True, "expected a rate such as"),
        ("links/slow/uplink/delay", "100h", "delay: expected 0s to 60s, got '100h'"),
        ("links/slow/uplink/loss", float("nan"), "loss: expected a finite number, got nan"),
        ("links/slow/uplink/loss", "1%", "loss: expected a number, got '1%'"),
        ("links/slow/uplink/queue", "99999999GB", "queue: expected 1500B to 1GB"),
        ("links/slow/uplink/queue", "1B", "queue: expected 1500B to 1GB"),
        ("links/slow/congestion_control", "cu bic", "expected a name such as cubic"),
        ("links/slow/step", True, "links.slow.step: expected a duration"),
        ("probe", {"budget": "99999GB"}, "probe.budget: expected 0B to 1GB"),
        ("profile", {"tolerance": float("inf")}, "profile.tolerance: expected a finite number"),
        ("profile", {"budget": "0s"}, "profile.budget: expected 1s to 24h"),
        ("profile", {"batches": [4, 4]}, "profile.batches: 4 is listed twice"),
        ("profile", {"loads": [True]}, "profile.loads.0: expected a whole number"),
        ("sweep", {"loads": []}, "sweep.loads: expected at least 1, got []"),
        ("sweep", {"loads": [0]}, "sweep.loads.0: expected 1.0 or more, got 0"),
        ("sweep", {"cells": 10**9}, "sweep.cells: expected 1000 or less"),
        ("sweep", {"step": "1kbit"}, "sweep: step: expected at most 10000 rates"),
        ("crosses", [], "crosses: expected at least 1, got []"),
        (
            "crosses",
            [{"policies": []}],
            "crosses.0.policies: expected at least 1, got []; left out",
        ),
        ("crosses", [{"links": ["slow", "slow"]}], "crosses.0.links: 'slow' is listed twice"),
        ("crosses", [{"trials": True}], "crosses.0.trials: expected a whole number"),
        ("candidates", [True], "expected text, got True"),
        ("loads", {"l": {"kind": "cpu", "level": True}}, "loads.l.level: expected a number"),
        ("loads", {"l": {"kind": "cpu", "level": float("nan")}}, "expected a finite number"),
        ("loads", {"l": {"kind": "inference", "clients": 65}}, "expected 64 or less"),
        (
            "loads",
            {"l": {"kind": "cpu", "markov": {"levels": [0.1, 0.1], "dwell": "1s"}}},
            "loads.l.markov.levels: 0.1 is listed twice",
        ),
        ("policies", [[]] * 1000, "and 995 faults more"),
    ],
)
def test_experiment_out_of_bounds(path, value, told, tmp_path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(yaml.safe_dump(changed(EXPERIMENT, path, value)))
    assert told in refusal(file)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("hosts/pi/data/address", "198.51.100.2", "address: 198.51.100.2 is also that of box"),
        ("hosts/pi/data/address", 3, "data.address: expected a host's IPv4 address, got 3"),
        ("hosts/pi/data/address", "0.0.0.0", "expected a host's IPv4 address, got '0.0.0.0'"),
        ("hosts/pi/data/interface", "", "interface: expected the name of a network interface"),
        ("hosts/pi/data/port", 65536, "hosts.pi.data.port: expected 65535 or less"),
        ("hosts/pi/port", True, "hosts.pi.port: expected a whole number, got True"),
        ("hosts/pi/python", "", "hosts.pi.python: expected python3 or the path of a Python"),
        ("hosts/pi/user", "-x", "hosts.pi.user: expected the name of a user, got '-x'"),
        ("hosts/pi/key", "", "hosts.pi.key: expected the path of a file, got ''"),
        ("hosts/pi/environment", {"A=B": "1"}, "environment.A=B: expected a variable's name"),
        ("hosts/pi/roles", ["device", "device"], "hosts.pi.roles: 'device' is listed twice"),
        ("hosts/pi/threads", 10**9, "hosts.pi.threads: expected 1024 or less"),
        ("hosts/pi/cpus", 0.04, "hosts.pi.cpus: expected 0.05 or more"),
        ("hosts/pi/cpus", float("inf"), "hosts.pi.cpus: expected a finite number"),
        ("hosts/pi/cpuset", "3-1", 'cpuset: expected CPUs such as "0,2-3", got'),
        ("hosts/pi/cpuset", "0-99999999999", 'cpuset: expected CPUs such as "0,2-3", got'),
        ("hosts/pi/cpuset", "1-", 'cpuset: expected CPUs such as "0,2-3", got'),
        ("hosts/pi/router", {"to_device": "a"}, "router: only of the host that has the role link"),
        ("hosts/nano", {"roles": ["load"]}, "at most one host with role load, got box, nano"),
        ("devices", True, "devices: expected a whole number, got True"),
        (
            "hosts/r",
            {"roles": ["link"], "router": {"to_device": "a", "to_server": "a"}},
            "hosts.r.router: to_server: expected another than to_device",
        ),
    ],
)
def test_inventory_out_of_bounds(path, value, told, tmp_path) -> None:
    loaded = changed(INVENTORY, "hosts/box/roles", ["server", "load"])
    file = tmp_path / "file.yaml"
    file.write_text(yaml.safe_dump(changed(loaded, path, value)))
    assert told in refusal(file, load_inventory)


def test_a_private_key_that_is_not_here_is_named(tmp_path) -> None:
    host = {"roles": ["device"], "address": "192.0.2.1"}
    nowhere = tmp_path / "nowhere"
    jump = {"address": "192.0.2.9", "user": "me", "key": nowhere}
    require_keys({"pi": Host.model_validate(host)})
    for given, told in (({"key": nowhere}, "key"), ({"jump": jump}, "jump.key")):
        with pytest.raises(UserError, match=rf"^hosts\.pi\.{told}: no such file: .*nowhere; make"):
            require_keys({"pi": Host.model_validate({**host, **given})})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{rate: [", "^uplink:1:9: not valid YAML"),
        ("20", "^uplink.rate: expected 1kbit to 1000gbit, got 20$"),
        ("{rate: 20mbit, loss: 2}", "^uplink.loss: expected 1.0 or less, got 2$"),
    ],
)
def test_a_typed_link_is_judged_alike(text, told) -> None:
    with pytest.raises(UserError, match=told):
        link_experiment(
            {"uplink": parse_direction("uplink", text), "downlink": {"rate": 10**6}}, {}
        )
