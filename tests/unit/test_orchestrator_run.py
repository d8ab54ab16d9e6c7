"""A run, and a campaign of runs, that lose a host."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testbed.config import load_inventory
from testbed.errors import GroupError, HostError, UserError
from testbed.hosts.connection import each
from testbed.hosts.role import RoleProcess
from testbed.orchestrator import run as run_module
from testbed.orchestrator.campaign import Campaign, SessionLost
from testbed.orchestrator.conditions import Conditions, Told
from testbed.orchestrator.ledger import Ledger
from testbed.orchestrator.neighbours import Usual
from testbed.orchestrator.plan import Plan, PlannedRun
from testbed.orchestrator.run import execute
from testbed.orchestrator.session import Session
from testbed.orchestrator.store import RunFolder
from testbed.traces.trace import Schedule

ROOT = Path(__file__).resolve().parents[2]
S = 10**9


def planned(policy: str) -> PlannedRun:
    return PlannedRun(f"l.none.{policy}.t0.abc", 0, "l", "none", policy, 0, 1, 1, 10**9)


def test_a_host_lost_before_the_run_begins_fails_the_run_alone(tmp_path, monkeypatch) -> None:
    def lost(*args: Any) -> None:
        raise GroupError("environment", {"pi": HostError("pi", "the connection broke")})

    monkeypatch.setattr(run_module, "environments", lost)
    monkeypatch.setattr(run_module, "clocks", lost)
    session: Any = SimpleNamespace(
        link_roles={"link": ("uplink",)},
        ready={"link": {"before": {}, "shaped": {}}},
        link_faults=[],
        inventory=SimpleNamespace(routers={}),
        usual=Usual(),
        experiment=SimpleNamespace(model_dump=lambda mode: {}),
    )
    conditions = Conditions({}, {}, None, 10**8, None)
    with RunFolder(tmp_path / "run") as folder:
        manifest = execute(session, planned("local"), conditions, folder, lambda *record: None)
    assert manifest["state"] == "failed"
    assert "the connection broke" in manifest["reasons"][0]
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["policy"] == "local"


def test_queries_of_an_outage_that_was_asked_for_count_as_no_fault(tmp_path) -> None:
    whole = Schedule.constant(10**6, end="hold")
    cut = replace(whole, outages=((2 * S, S),))
    session: Any = SimpleNamespace(
        inventory=load_inventory(ROOT / "inventory/local.yaml"), host_of=lambda role: role
    )
    told = {"device": Told({"name": "offload"}, None)}
    conditions = Conditions({"uplink": cut, "downlink": whole}, told, None, 10**8, None)
    with RunFolder(tmp_path / "run") as folder:
        run = run_module._Run(session, planned("offload"), conditions, folder)
        run.done = {"device": {"t0_ns": 7}}
        run.not_ok_due_ns = {"device": [7 + t_ns for t_ns in (2 * S, 2 * S + 1, 3 * S - 1, 9 * S)]}
        assert run._not_ok("device") == 1  # the last, long after


def test_an_interrupt_while_roles_stop_is_no_failure_to_go_on_from(tmp_path, monkeypatch) -> None:
    def interrupt(run: Any) -> None:
        raise KeyboardInterrupt

    for step in ("describe", "measure"):
        monkeypatch.setattr(run_module._Run, step, lambda run: None)
    monkeypatch.setattr(run_module._Run, "stop", interrupt)
    monkeypatch.setattr(run_module._Run, "finish", lambda run, state, reasons: {"state": state})
    with RunFolder(tmp_path / "run") as folder:
        session: Any = SimpleNamespace()
        conditions = Conditions({}, {}, None, 10**8, None)
        manifest = execute(session, planned("local"), conditions, folder, lambda *record: None)
    assert manifest["state"] == "interrupted"


def test_an_interrupt_waits_for_what_the_hosts_are_about() -> None:
    ended = threading.Event()

    def work() -> None:
        time.sleep(0.6)
        ended.set()

    interrupting = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        each("work", {"pi": work})
    assert ended.is_set()


def test_a_host_is_named_once_whatever_its_fault() -> None:
    outcomes = {
        "pi": UserError("pi: build: timm is not installed"),
        "gpu": HostError("gpu", "no torch"),
        "laptop": OSError("full"),
    }
    told = "pi: build: timm is not installed; gpu: no torch; laptop: full"
    assert str(GroupError("build", outcomes)) == f"build: {told}"


def test_an_interrupt_gives_up_what_would_take_long() -> None:
    given_up = threading.Event()
    in_time = []

    def work() -> None:
        in_time.append(given_up.wait(10))

    interrupting = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        each("work", {"pi": work}, give_up=given_up.set)
    assert in_time == [True]


def test_sessions_in_which_no_run_gets_complete_come_to_an_end(tmp_path) -> None:
    plan = Plan(tuple(planned(policy) for policy in "abcdefgh"), (), {})
    campaign = Campaign.__new__(Campaign)
    campaign.ledger = ledger = Ledger(tmp_path, plan, 0, {})
    campaign.listener = SimpleNamespace(stage=lambda text: None)  # type: ignore[assignment]
    sat = []

    def sit() -> None:
        run = ledger.due()[0]
        sat.append(run.policy)
        ledger.begin(run)
        state = "complete" if run.policy == "b" else "failed"
        ledger.ended(run, {"state": state, "validity": "valid", "disturbed": False, "reasons": []})
        raise SessionLost("the device's process is killed each time")

    campaign._sit = sit  # type: ignore[method-assign]
    with pytest.raises(SessionLost):
        campaign._sit_through()
    assert sat == ["a", "b", "c", "d"]


def test_records_of_a_further_device_are_told_from_the_firsts(monkeypatch, tmp_path: Path) -> None:
    told: dict[str, Any] = {}

    def start(connection: Any, kind: str, deployed: str, **rest: Any) -> Any:
        told[kind] = rest["on_record"]
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(RoleProcess, "start", start)
    hosts = {"pi": SimpleNamespace(sudo=False), "nano": SimpleNamespace(sudo=False)}
    inventory: Any = SimpleNamespace(hosts=hosts, hosts_of=lambda role: ("pi", "nano"))
    session = Session(None, inventory, None, None, tmp_path, lambda text: None)  # type: ignore[arg-type]
    session.connections = {"pi": None, "nano": None}  # type: ignore[dict-item]
    heard = []
    session.on_record = lambda role, file, record: heard.append(role)
    session._start_role("device-nano", "/code")
    told["device"]("device", "queries", {})
    assert heard == ["device-nano"]


def test_a_slow_device_with_many_splits_has_its_time_to_begin(tmp_path: Path) -> None:
    def patience_s(splits: int, queries: int) -> float:
        experiment: Any = SimpleNamespace(run=SimpleNamespace(timeout=10 * 10**9))
        plan = Plan((), tuple(map(str, range(splits))), {})
        session = Session(experiment, None, plan, None, tmp_path, lambda text: None)  # type: ignore[arg-type]
        return session.patience_s(queries)

    assert patience_s(80, 5) == patience_s(3, 80) >= 80 * 10
    assert patience_s(3, 5) < 200  # one that hangs is noticed
