from __future__ import annotations

import pytest

from testbed.orchestrator.neighbours import Usual, others_share


def reading(t_s: float, idle_s: float, steal_s: float, own_s: float, boot: str = "one") -> dict:
    """A host of two CPUs so long after its boot."""
    return {
        "boot_id": boot, "cpu_count": 2, "ticks_per_s": 100, "t_ns": round(t_s * 1e9),
        "idle_ticks": idle_s * 100, "irq_ticks": t_s * 2, "steal_ticks": steal_s * 100,
        "own_ticks": own_s * 100,
    }  # fmt: skip


def test_what_is_neither_idle_nor_stolen_nor_ours_is_others() -> None:
    # Ten seconds of two CPUs: 11 s idle, 0.2 s interrupts, 1 s stolen, 5 s ours, so 2.8 s others'.
    found = others_share({"pi": (reading(100, 150, 2, 7), reading(110, 161, 3, 12))})
    assert found == {"pi": pytest.approx(0.14)}


def test_hosts_of_one_machine_are_one() -> None:
    hosts = {
        "device": (reading(100, 150, 0, 1), reading(110, 160, 0, 4)),
        "server": (reading(100, 150, 0, 2), reading(110, 160, 0, 8)),
        "guest": (reading(5, 1, 0, 0, "two"), reading(15, 21, 0, 0, "two")),
        "restarted": (reading(5, 1, 0, 0, "three"), reading(1, 1, 0, 0, "four")),
        "silent": ({"boot_id": None}, {"boot_id": None}),
    }
    assert others_share(hosts) == {
        "device, server": pytest.approx(0.04),
        "guest": pytest.approx(-0.01),
    }


def test_usual_is_the_median_of_the_runs_before() -> None:
    usual = Usual()
    assert usual.compare({"pi": 0.1}) == {}
    assert usual.compare({"pi": 0.5}) == {"pi": (0.5, 0.1)}
    usual.compare({"pi": 0.1})
    assert usual.compare({"pi": 0.2}) == {"pi": (0.2, 0.1)}
