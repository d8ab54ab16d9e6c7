"""What a verification concludes from what its probers measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from testbed.config.link import link_experiment
from testbed.errors import UserError
from testbed.orchestrator.link_bounds import Asked
from testbed.orchestrator.verify_link import (
    ATTEMPTS,
    LinkCheck,
    alike,
    asked_of,
    compensated,
    summary,
)
from testbed.traces.trace import Schedule

MBIT, MS = 10**6, 10**6


class Path:
    """A path that carries what it is told to, and probers that measure it."""

    def __init__(self, asked: dict[str, Asked]) -> None:
        self.rate_bps: dict[str, int] = {}
        self.factor: Callable[[str, int], float] = lambda side, rate_bps: 1.0
        self.capacity_bps = 1000.0 * MBIT
        self.added_ns = sum(a.delay_ns for a in asked.values())
        self.lost = 0
        self.shaped = False
        self.transfers: list[tuple[str, str]] = []

    def set_rates(self, rates: Mapping[str, int]) -> None:
        self.shaped = True
        self.rate_bps = dict(rates)

    def udp(self, side: str, rate_bps: int, seconds: float) -> dict[str, Any]:
        self.transfers.append(("udp", side))
        assert self.rate_bps[side] == rate_bps
        carried = rate_bps * self.factor(side, rate_bps)
        return {"rate_bps": carried, "packets": 90, "sent": 100}

    def tcp(self, side: str, seconds: float, window_bytes: int | None = None) -> dict[str, Any]:
        self.transfers.append(("tcp", side))
        if not self.shaped:
            return {"rate_bps": self.capacity_bps}
        return {"rate_bps": self.rate_bps[side] * self.factor(side, self.rate_bps[side])}

    def lossy(self, side: str, rate_bps: int, packets: int) -> dict[str, Any]:
        return {"sent": packets, "arrived": packets - self.lost}

    def ping(self, count: int, interval_ns: int) -> dict[str, Any]:
        rtt_ns = 200_000 + (self.added_ns if self.shaped else 0)
        return {"sent": count, "rtts_ns": [rtt_ns] * count}


def both(**changes: Any) -> dict[str, Asked]:
    fields = {"delay_ns": 0, "jitter_ns": 0, "loss": 0.0, "loss_spread": 1.0, **changes}
    fields |= {"orderly": not fields["loss"], "queue_bytes": 256_000}
    return {
        "uplink": Asked(levels_bps=(2 * MBIT, 20 * MBIT), max_bps=20 * MBIT, **fields),
        "downlink": Asked(levels_bps=(40 * MBIT,), max_bps=40 * MBIT, **fields),
    }


def verified(path: Path, asked: dict[str, Asked]) -> LinkCheck:
    check = LinkCheck(path)
    check.unshaped({side: a.max_bps for side, a in asked.items()})
    check.shaped("wander", asked, path.set_rates)
    return check


def test_a_true_link_has_no_fault_and_each_level_is_looked_at() -> None:
    asked = both(delay_ns=10 * MS)
    path = Path(asked)
    check = verified(path, asked)
    assert check.faults == []
    found = {
        s: [level["rate_bps"] for level in told]
        for s, told in check.document["links"]["wander"]["rates"].items()
    }
    assert found == {"uplink": [2 * MBIT, 20 * MBIT], "downlink": [40 * MBIT]}
    assert path.transfers.count(("udp", "uplink")) == 2
    assert path.transfers.count(("tcp", "uplink")) == 3  # one of them the unshaped capacity
    assert check.document["unshaped"]["ping"]["p50_ns"] == 200_000


def test_a_wrong_level_is_measured_again_and_then_a_fault() -> None:
    asked = both()
    path = Path(asked)
    path.factor = lambda side, rate_bps: 0.9 if rate_bps == 2 * MBIT else 1.0
    check = verified(path, asked)
    assert [fault.split(":")[0] for fault in check.faults] == [
        "uplink at 2 Mbit/s, UDP",
        "uplink at 2 Mbit/s, TCP",
    ]
    assert len(check.document["links"]["wander"]["rates"]["uplink"][0]["udp"]) == ATTEMPTS
    assert len(check.document["links"]["wander"]["rates"]["uplink"][1]["udp"]) == 1
    assert check.document["faults"] == check.faults


def test_rates_beyond_a_user_mode_router_name_it() -> None:
    asked = both()
    path = Path(asked)
    path.factor = lambda side, rate_bps: 0.9
    check = LinkCheck(path, 30 * MBIT)
    path.capacity_bps = 364.0 * MBIT
    check.unshaped({"uplink": 400 * MBIT})
    check.shaped("wander", asked, path.set_rates)
    named = {fault.split(":")[0]: "user-mode Linux" in fault for fault in check.faults}
    assert named == {
        "uplink capacity": True,
        "uplink at 2 Mbit/s, UDP": False,
        "uplink at 2 Mbit/s, TCP": False,
        "uplink at 20 Mbit/s, UDP": False,
        "uplink at 20 Mbit/s, TCP": False,
        "downlink at 40 Mbit/s, UDP": True,
        "downlink at 40 Mbit/s, TCP": True,
    }


def test_a_passing_disturbance_is_no_fault_and_stays_on_record() -> None:
    asked = both()
    path = Path(asked)
    path.factor = lambda side, rate_bps: 0.9 if len(path.transfers) == 3 else 1.0
    check = verified(path, asked)
    assert check.faults == []
    first, second = check.document["links"]["wander"]["rates"]["uplink"][0]["udp"]
    assert "-10.0%" in first["fault"]
    assert second["fault"] is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"capacity_bps": 30.0 * MBIT}, "downlink capacity"),
        ({"added_ns": 25 * MS}, "delay: expected the round trip longer by 20.00 ms"),
    ],
)
def test_capacity_and_delay_are_faults_too(change: dict[str, Any], says: str) -> None:
    asked = both(delay_ns=10 * MS)
    path = Path(asked)
    vars(path).update(change)
    (fault,) = verified(path, asked).faults
    assert says in fault


def test_loss_is_measured_where_it_is_asked_for() -> None:
    asked = both(loss=0.02)
    path = Path(asked)
    path.lost = 20
    check = verified(path, asked)
    assert check.faults == []
    assert ("tcp", "uplink") not in path.transfers[2:]  # under loss it tells of its own control
    assert set(check.document["links"]["wander"]["loss"]) == {"uplink", "downlink"}
    path.lost = 100
    assert any("uplink loss: expected" in fault for fault in verified(path, asked).faults)


def test_the_summary_keeps_the_distribution() -> None:
    told = summary({"sent": 12, "rtts_ns": list(range(1000, 12000, 1000))})
    assert told == {
        "sent": 12,
        "arrived": 11,
        "p10_ns": 2000,
        "p50_ns": 6000,
        "p90_ns": 10000,
        "max_ns": 11000,
    }
    assert summary({"sent": 3, "rtts_ns": []}) == {"sent": 3, "arrived": 0}


def test_what_is_asked_is_read_from_the_experiment() -> None:
    lossy = {"rate": "20mbit", "delay": "10ms", "gilbert": {"to_bad": 0.01, "to_good": 0.19}}
    plain = {"rate": "40mbit", "corrupt": 0.1, "loss": 0.1, "queue_time": "100ms"}
    experiment = link_experiment({"uplink": lossy, "downlink": plain}, {})
    link = experiment.links["link"]
    faster = link.model_copy(update={"uplink": link.uplink.model_copy(update={"rate": 10 * MBIT})})
    tidy = link.model_copy(update={"downlink": link.uplink})
    links = {"a": link, "b": faster, "c": tidy}
    experiment = experiment.model_copy(update={"links": links})
    assert alike(experiment) == [("a", "b"), ("c",)]
    schedules = {
        name: {side: Schedule.constant(getattr(spec, side).rate) for side in ("uplink", "downlink")}
        for name, spec in links.items()
    }
    asked = asked_of(experiment, schedules, ("a", "b"))
    assert asked["uplink"].levels_bps == (10 * MBIT, 20 * MBIT)
    assert asked["uplink"].loss == pytest.approx(0.05)
    assert asked["uplink"].loss_spread == pytest.approx(9.0)
    assert asked["downlink"].loss == pytest.approx(0.19)
    assert asked["downlink"].loss_spread == 1.0
    assert asked["downlink"].queue_bytes == 500_000
    assert not asked["downlink"].orderly


def test_the_paths_own_delay_is_taken_off_where_asked_for() -> None:
    directions = {"uplink": {"rate": "1mbit", "delay": "10ms"}, "downlink": {"rate": "1mbit"}}
    plain = link_experiment(directions, {})
    assert compensated(plain, 4 * MS) == plain
    asked = link_experiment(directions, {"delay_compensation": True})
    found = compensated(asked, 4 * MS).links["link"]
    assert (found.uplink.delay, found.downlink.delay) == (8 * MS, 0)
    with pytest.raises(UserError, match=r"links\.link\.uplink\.delay: expected at least .* 12\.00"):
        compensated(asked, 24 * MS)
