"""Files a person writes are refused with the YAML path of what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from testbed.config import load_experiment, load_inventory
from testbed.errors import UserError
from testbed.orchestrator.plan import check_fleets, make_schedules
from testbed.orchestrator.roles import host_of, link_suffixes
from testbed.orchestrator.shaping import Shaping

ROOT = Path(__file__).parents[2]

EXPERIMENT = {
    "schema_version": 1,
    "name": "tiny",
    "model": {"name": "resnet18"},
    "links": {"slow": {"uplink": {"rate": "5mbit"}, "downlink": {"rate": "20mbit"}}},
    "policies": ["local", "dynamic"],
}
INVENTORY = {
    "schema_version": 1,
    "hosts": {
        "pi": {
            "roles": ["device"],
            "address": "192.0.2.1",
            "data": {"interface": "eth1", "address": "198.51.100.1"},
        },
        "box": {
            "roles": ["server"],
            "address": "192.0.2.2",
            "data": {"interface": "eth1", "address": "198.51.100.2"},
        },
    },
}


def changed(document: dict, path: str, value: object) -> dict:
    """A deep copy with one value set, or removed when the value is None."""
    copy = yaml.safe_load(yaml.safe_dump(document))
    *parents, last = path.split("/")
    inner = copy
    for key in parents:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return copy


def load(kind, document: dict, folder: Path):
    path = folder / "file.yaml"
    path.write_text(yaml.safe_dump(document))
    return kind(path)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("polices", ["local"], "polices: unknown key"),
        ("links/slow/uplink/rate", 20, "links.slow.uplink.rate: expected a rate"),
        ("links/slow/uplink/rate", "0mbit", "expected 1kbit to 1000gbit, got '0mbit'"),
        ("policies", [], "policies: expected at least 1, got"),
        ("links/slow/uplink/rate", "20 mbps!", "links.slow.uplink.rate: expected a rate"),
        ("links/slow/uplink/rate", "0mbit", "links.slow.uplink.rate"),
        ("links/slow/outages", [{"at": "3s", "length": "5s"}], "links.slow: outage: expected drop"),
        ("links/slow/uplink/trace", "x.csv", "links.slow.uplink: expected exactly one of"),
        ("links/slow/step", "1ms", "links.slow.step"),
        ("policies", ["greedy"], "policies: unknown policy 'greedy'"),
        ("policies", ["local", "local"], "policies: 'local' is listed twice"),
        ("encoding", {"features": "float8"}, "encoding.features"),
        ("run", {"duration": "12"}, "run.duration: expected a duration"),
        ("batch", 0, "batch"),
        ("loads", {"busy": {"kind": "inference"}}, "loads.busy: expected exactly one of clients"),
        (
            "loads",
            {"busy": {"kind": "cpu", "clients": 1}},
            "loads.busy: expected exactly one of level",
        ),
        ("loads", {"busy": {"kind": "inference", "steps": [{"t": "0s", "level": 0.5}]}}, "clients"),
        ("arrivals", {"kind": "periodic"}, "arrivals: interval"),
        ("policies", ["deadline"], "run.deadline"),
        ("policies", ["python:a.b"], "unknown policy 'python:a.b'"),
        ("model", None, "model: missing"),
        ("schema_version", 2, "schema_version: expected 1, got 2"),
    ],
)
def test_experiment_refused(path, value, told, tmp_path) -> None:
    with pytest.raises(UserError) as refusal:
        load(load_experiment, changed(EXPERIMENT, path, value), tmp_path)
    assert told in str(refusal.value)
    assert "file.yaml" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("hosts/pi/adress", "x", "hosts.pi.adress: unknown key"),
        ("hosts/pi/data/address", "192.0.2.1", "also carries SSH"),
        ("hosts/pi/data", None, "hosts.pi.data: missing"),
        ("hosts/pi/address", None, "hosts.pi.address: missing"),
        ("hosts/box/roles", ["load"], "exactly one host with role server, got none"),
        ("hosts/box/roles", ["server", "device"], "several devices need a router"),
        ("hosts/pi/roles", ["load"], "expected a host with role device"),
        ("devices", 4, "devices: only in the virtual lab"),
        ("devices", 99, "devices"),
        ("hosts/box/roles", ["serving"], "hosts.box.roles"),
        ("hosts/pi/cpus", 0.5, "only in the virtual lab"),
        ("hosts/pi/port", 99999, "hosts.pi.port"),
    ],
)
def test_inventory_refused(path, value, told, tmp_path) -> None:
    with pytest.raises(UserError) as refusal:
        load(load_inventory, changed(INVENTORY, path, value), tmp_path)
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("fleets", "told"),
    [
        ({}, "policies: fleet:mixed: no such fleet; fleets are none"),
        ({"mixed": {"pi": "dinamic"}}, "fleets.mixed.pi: unknown policy 'dinamic'"),
        ({"mixed": {"pi": "static:*"}}, "fleets.mixed.pi: expected one policy"),
        ({"mixed": {"pi": "deadline"}}, "run.deadline: the policy deadline needs one"),
    ],
)
def test_fleets_refused(fleets, told, tmp_path) -> None:
    content = {**EXPERIMENT, "policies": ["fleet:mixed"], "fleets": fleets}
    with pytest.raises(UserError) as refusal:
        load(load_experiment, content, tmp_path)
    assert told in str(refusal.value)


ROUTERS = {
    "schema_version": 1,
    "lab": "local",
    "hosts": {
        "a": {"roles": ["device"]},
        "b": {"roles": ["device"]},
        "close": {"roles": ["link"], "router": {"devices": ["a"]}},
        "far": {"roles": ["link"], "router": {"devices": ["b"]}},
        "box": {"roles": ["server"]},
    },
}


def test_every_device_is_behind_one_of_several_routers(tmp_path) -> None:
    inventory = load(load_inventory, ROUTERS, tmp_path)
    assert inventory.routers == {"close": ("a",), "far": ("b",)}
    assert link_suffixes(inventory) == {"close": "", "far": "-far"}
    assert host_of(inventory, "link-far") == "far"
    roles = Shaping(inventory, "router").roles
    assert roles["link-far"] == ("uplink-far", "downlink-far")


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("hosts/far/router", None, "hosts.far.router.devices: missing"),
        ("hosts/far/router/devices", ["c"], "hosts.far.router.devices: c is no device"),
        ("hosts/far/router/devices", ["a", "b"], "a is behind another router"),
        ("hosts/c", {"roles": ["device"]}, "c is behind no router"),
        ("shaping", "egress", "expected router, with several of them"),
        ("hosts/far", {"roles": ["load"]}, "hosts: b is behind no router"),
    ],
)
def test_routers_refused(path, value, told, tmp_path) -> None:
    with pytest.raises(UserError) as refusal:
        load(load_inventory, changed(ROUTERS, path, value), tmp_path)
    assert told in str(refusal.value)


def test_a_further_router_may_have_another_link(tmp_path) -> None:
    links = {
        "good": {"uplink": {"rate": "40mbit"}, "downlink": {"rate": "40mbit"}},
        "poor": {"uplink": {"rate": "2mbit"}, "downlink": {"rate": "40mbit"}},
    }
    links["apart"] = {**links["good"], "at": {"far": "poor"}}
    content = {**EXPERIMENT, "links": links}
    experiment = load(load_experiment, content, tmp_path)
    found = make_schedules(experiment, {}, {"near": "", "far": "-far"})
    assert {side: s.changes[0][1] for side, s in found["apart"].items()} == {
        "uplink": 40_000_000,
        "downlink": 40_000_000,
        "uplink-far": 2_000_000,
        "downlink-far": 40_000_000,
    }
    for routers in ({}, {"far": ""}, {"near": "", "other": "-other"}):
        with pytest.raises(UserError, match=r"links\.apart\.at: far is none of the inventory's"):
            make_schedules(experiment, {}, routers)
    slower = {**links["poor"], "step": "1s"}
    for wrong, told in (
        ({**links, "apart": {**links["apart"], "at": {"far": "gone"}}}, "expected a link that is"),
        ({**links, "poor": slower}, "poor has another step than apart"),
    ):
        with pytest.raises(UserError, match=told):
            load(load_experiment, {**content, "links": wrong}, tmp_path)


def test_a_fleet_gives_every_device_its_own_policy(tmp_path) -> None:
    fleets = {"mixed": {"pi": "local", "nano": "offload"}}
    content = {**EXPERIMENT, "policies": ["dynamic", "fleet:mixed"], "fleets": fleets}
    experiment = load(load_experiment, content, tmp_path)
    assert set(experiment.every_policy) == {"dynamic", "local", "offload"}
    assert experiment.policy_of("dynamic", "pi") == "dynamic"
    assert experiment.policy_of("fleet:mixed", "nano") == "offload"
    check_fleets(experiment, ("nano", "pi"))
    for devices, told in ((("pi",), "nano is none of them"), (("a", "nano", "pi"), "a is left")):
        with pytest.raises(UserError, match=told):
            check_fleets(experiment, devices)


def test_good_files_are_read(tmp_path) -> None:
    experiment = load(load_experiment, EXPERIMENT, tmp_path)
    assert experiment.links["slow"].uplink.rate == 5_000_000
    assert experiment.run.duration == 12 * 10**9
    inventory = load(load_inventory, INVENTORY, tmp_path)
    assert inventory.host_of("server") == "box"
    assert inventory.host_of("load") is None


def test_resolved_experiment_reads_back(tmp_path) -> None:
    experiment = load(load_experiment, EXPERIMENT, tmp_path)
    again = type(experiment).model_validate(experiment.model_dump(mode="json"))
    assert again == experiment


# bottlenecks.yaml lists models and runs nothing: it is another kind of file.
EXPERIMENTS = [p for p in sorted((ROOT / "experiments").glob("*.yaml")) if p.stem != "bottlenecks"]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.name)
def test_shipped_experiments_are_valid(path) -> None:
    assert load_experiment(path).name == path.stem


@pytest.mark.parametrize("path", sorted((ROOT / "inventory").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_inventories_are_valid(path) -> None:
    assert load_inventory(path).host_of("device")


def test_a_key_written_twice_is_refused(tmp_path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT) + "name: other\n")
    with pytest.raises(UserError, match="'name' is written twice"):
        load_experiment(path)


def test_candidates_may_be_numbers(tmp_path) -> None:
    document = {**EXPERIMENT, "candidates": [2, 5]}
    assert load(load_experiment, document, tmp_path).candidates == ("2", "5")


def test_a_link_may_follow_a_trace_of_ones_own(tmp_path) -> None:
    matrix = load_experiment(ROOT / "experiments" / "dynamic-vs-static.yaml")
    own = tmp_path / "own.up"
    own.write_text("1\n2\n")
    changed_to = matrix.with_uplink_trace("recorded", own).links["recorded"]
    assert changed_to.uplink.trace == own
    assert changed_to.downlink == matrix.links["recorded"].downlink
    with pytest.raises(UserError, match=r"--trace: low: no link with a trace; .*recorded"):
        matrix.with_uplink_trace("low", own)
    with pytest.raises(UserError, match=r"--trace: no such file: .*absent"):
        matrix.with_uplink_trace("recorded", tmp_path / "absent.up")


def test_missing_trace_is_named(tmp_path) -> None:
    document = changed(EXPERIMENT, "links/slow/uplink", {"trace": "nowhere.csv"})
    with pytest.raises(UserError, match=r"links\.slow\.uplink\.trace: no such file"):
        load(load_experiment, document, tmp_path)


@pytest.mark.parametrize("text", ["- a", "{", "a: [", "\x00"])
def test_not_a_mapping(text, tmp_path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        load_experiment(path)
