"""What the roles are told of load and policies."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from testbed.config.experiment import Experiment
from testbed.config.load_spec import LoadSpec
from testbed.errors import UserError
from testbed.model.table import SplitPoint, SplitTable
from testbed.orchestrator.campaign import load_traces
from testbed.orchestrator.choosing import (
    load_message,
    load_steps,
    policy_message,
    query_rules,
    user_policies,
)
from testbed.orchestrator.plan import make_plan
from testbed.policy.clairvoyant import Oracle
from testbed.traces.trace import Schedule

S = 10**9


def spec(**keys: Any) -> LoadSpec:
    return LoadSpec.model_validate(keys)


def test_levels_become_steps() -> None:
    assert load_steps(spec(kind="inference", clients=3), S, 1) == [[0, 3]]
    assert load_steps(spec(kind="cpu", level=0.5), S, 1) == [[0, 0.5]]
    steps = [{"t": 0, "clients": 0}, {"t": S, "clients": 2}]
    assert load_steps(spec(kind="inference", steps=steps), S, 1) == [[0, 0], [S, 2]]


def test_markov_is_the_seeds_and_never_stays() -> None:
    markov = spec(kind="memory", markov={"levels": [0, 0.4, 0.8], "dwell": S})
    steps = load_steps(markov, 100 * S, 4)
    assert steps == load_steps(markov, 100 * S, 4) != load_steps(markov, 100 * S, 5)
    assert steps[-1][0] > 100 * S
    levels = [level for _, level in steps]
    assert all(a != b for a, b in pairwise(levels))
    assert len(steps) == pytest.approx(160, rel=0.3)


def test_trace_of_levels_is_read_and_refused_by_line(tmp_path: Path) -> None:
    file = tmp_path / "load.csv"
    file.write_text("# made by hand\nt_s,level\n0,0.1\n1.5,0.9\n")
    told = spec(kind="cpu", trace=file)
    assert load_steps(told, S, 1) == [[0, 0.1], [1_500_000_000, 0.9]]
    for text, said in (
        ("t_s,level\n0,0.1\n1,2\n", "line 3: expected rising"),
        ("t_s,level\n0,0.1\n0,0.2\n", "line 3: expected rising"),
        ("t_s,level\n0,high\n", "line 2: expected a time"),
        ("t_s,level\n1,0.5\n", "the first at 0 s"),
        ("time,level\n", "expected the columns"),
        ("t_s,level\ninf,0.5\n", "line 2: expected a time"),
        ("t_s,level\n0,nan\n", "line 2: expected rising"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=said):
            load_steps(told, S, 1)
    file.write_bytes(b"t_s,level\n0,\xff\n")
    with pytest.raises(UserError, match=r"load\.csv: expected a CSV file in UTF-8"):
        load_steps(told, S, 1)
    file.unlink()
    with pytest.raises(UserError, match=r"load\.csv: cannot be read"):
        load_steps(told, S, 1)


def test_traces_of_loads_are_read_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "load.csv").write_text("")
    link = {"uplink": {"rate": 10**7}, "downlink": {"rate": 10**7}}
    document = {
        "name": "n",
        "model": {"name": "m"},
        "links": {"l": link},
        "policies": ["local"],
        "loads": {"x": {"kind": "cpu", "trace": str(tmp_path / "load.csv")}},
    }
    with pytest.raises(UserError, match="expected the columns"):
        load_traces(Experiment.model_validate(document))


def test_clairvoyant_is_told_rates_and_load_and_nobody_else() -> None:
    load = load_message(spec(kind="inference", clients=2), S, 1)
    assert load is not None
    uplink = Schedule.constant(10**7)
    message = policy_message("clairvoyant", {}, uplink, load)
    oracle = Oracle.from_message(message["oracle"])
    assert oracle.rate_bps.at(5 * S)[0] == 10**7
    assert (oracle.load.at(0)[0], oracle.queued) == (2, True)
    assert Oracle.from_message(policy_message("clairvoyant", {}, uplink, None)["oracle"])
    assert policy_message("dynamic", {}, uplink, load) == {"name": "dynamic"}
    assert load_message(LoadSpec(), S, 1) is None


def test_users_policy_travels_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    name = "python:experiments.my_policy:Fastest"
    sources = user_policies(("local", name), ("offload", "local"))
    message = policy_message(name, sources, Schedule.constant(1), None)
    assert "class Fastest" in message["source"]["text"]
    with pytest.raises(UserError, match="no file"):
        user_policies(("python:nonesuch.module:Policy",), ("local",))


def test_rules_of_a_query() -> None:
    experiment = Experiment.model_validate(
        {
            "name": "x",
            "model": {"name": "resnet18"},
            "links": {"a": {"uplink": {"rate": "1mbit"}, "downlink": {"rate": "1mbit"}}},
            "policies": ["local"],
            "arrivals": {"kind": "periodic", "interval": "50ms", "waiting": "queue"},
            "run": {"deadline": "200ms", "hedge": True},
        }
    )
    assert query_rules(experiment) == {
        "arrivals": {"kind": "periodic", "interval_ns": 50_000_000, "waiting": "queue"},
        "deadline_ns": 200_000_000,
        "hedge": True,
    }


def test_crosses_choose_what_is_run() -> None:
    document = {
        "name": "x",
        "model": {"name": "resnet18"},
        "links": {
            name: {"uplink": {"rate": "1mbit"}, "downlink": {"rate": "1mbit"}} for name in "abc"
        },
        "loads": {"none": {}, "busy": {"kind": "cpu", "level": 0.5}},
        "policies": ["local", "offload", "random"],
        "run": {"trials": 2},
        "crosses": [
            {"policies": ["local", "offload"], "loads": ["none"]},
            {"links": ["a"], "policies": ["random"], "trials": 1},
            {"links": ["a"], "loads": ["none"], "policies": ["random"]},
        ],
    }
    points = tuple(
        SplitPoint(split, i, split, (split,), ((3,),), 1.0, False, False)
        for i, split in enumerate(("offload", "local"))
    )
    table = SplitTable("m", 64, (3, 64, 64), 10, points)
    runs = make_plan(Experiment.model_validate(document), table, {}).runs
    found = sorted((r.trial, r.link, r.load, r.policy) for r in runs)
    first = [(t, link, "none", p) for t in (0, 1) for link in "abc" for p in ("local", "offload")]
    also = [(0, "a", "none", "random"), (0, "a", "busy", "random"), (1, "a", "none", "random")]
    assert found == sorted(first + also)
    document["crosses"] = [{"links": ["d"]}]
    with pytest.raises(ValueError, match="'d' is not among links"):
        Experiment.model_validate(document)
