from __future__ import annotations

from pathlib import Path

import pytest

from testbed.errors import UserError
from testbed.traces.formats import load_trace
from testbed.traces.generate import KINDS, generate
from testbed.traces.show import render, sparkline, summarise
from testbed.traces.trace import BandwidthTrace

S, MBIT = 10**9, 10**6
QUICKSTART = Path(__file__).parents[2] / "experiments" / "traces" / "quickstart.csv"


def make(kind: str, seed: int = 1, **given: int) -> BandwidthTrace:
    wanted = {"duration_ns": 60 * S, "min_bps": MBIT, "max_bps": 40 * MBIT, **given}
    return generate(kind, seed=seed, **wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_trace_within_bounds(kind) -> None:
    trace = make(kind, down_min_bps=2 * MBIT, down_max_bps=3 * MBIT)
    assert trace == make(kind, down_min_bps=2 * MBIT, down_max_bps=3 * MBIT)
    assert trace.duration_ns == 60 * S
    assert all(MBIT <= rate <= 40 * MBIT for rate in trace.direction("up"))
    assert all(2 * MBIT <= rate <= 3 * MBIT for rate in trace.direction("down"))


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "constant"])
def test_seeds_and_directions_differ_and_the_rate_moves(kind) -> None:
    trace = make(kind)
    assert trace.up_bps != make(kind, seed=2).up_bps
    assert trace.up_bps != trace.down_bps
    assert max(trace.direction("up")) > 4 * min(trace.direction("up"))


def test_constant_is_one_step() -> None:
    assert make("constant").up_bps == (40 * MBIT,)


def test_last_step_is_shorter_where_the_duration_asks_for_it() -> None:
    trace = generate("lte", duration_ns=S + 1, seed=1, min_bps=MBIT, max_bps=2 * MBIT)
    assert trace.duration_ns == S + 1
    assert trace.t_ns[-1] == S


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "5g"}, "expected one of constant"),
        ({"kind": "steps", "min_bps": 0}, "up: expected 0 < min <= max"),
        ({"kind": "steps", "down_max_bps": 5}, "down: expected 0 < min <= max"),
        ({"kind": "steps", "duration_ns": 0}, "duration"),
    ],
)
def test_bad_calls_are_refused(given, said) -> None:
    with pytest.raises(UserError, match=said):
        make(**given)


def test_quickstart_trace_is_what_its_header_says() -> None:
    shipped = load_trace(QUICKSTART)
    made = make(
        "sweep",
        duration_ns=12 * S,
        min_bps=1 * MBIT,
        max_bps=120 * MBIT,
        down_min_bps=40 * MBIT,
        down_max_bps=40 * MBIT,
    )
    assert shipped == made
    means = shipped.means("up", S // 10)
    share = [sum(low <= m < high for m in means) / len(means) for low, high in BANDS]
    assert all(0.15 < s < 0.6 for s in share)


# Where local, a split and offload win with the quickstart's model and shares.
BANDS = ((0, 4 * MBIT), (4 * MBIT, 38 * MBIT), (38 * MBIT, 121 * MBIT))


def test_summary_weighs_by_time() -> None:
    trace = BandwidthTrace((0, 9 * S), (0, 10 * MBIT), None, 10 * S, "two steps")
    summary = summarise(trace)
    assert summary["duration_ns"] == 10 * S
    assert set(summary["directions"]) == {"up"}
    found = summary["directions"]["up"]
    assert found["mean_bps"] == MBIT
    assert (found["min_bps"], found["max_bps"]) == (0, 10 * MBIT)
    assert (found["p50_bps"], found["p75_bps"], found["p95_bps"]) == (0, 0, 10 * MBIT)
    assert found["longest_gap_ns"] == 9 * S


def test_longest_gap_spans_steps_and_ends_with_a_rate() -> None:
    trace = BandwidthTrace((0, 1, 2, 3, 5), (0, 0, 7, 0, 7), None, 9, "gaps")
    assert summarise(trace)["directions"]["up"]["longest_gap_ns"] == 2


def test_rendering_shows_the_shape() -> None:
    trace = BandwidthTrace((0, S), (0, 8 * MBIT), None, 2 * S, "half on")
    assert sparkline(trace, "up") == "▁" * 30 + "█" * 30
    text = render(trace)
    assert "half on" in text
    assert "mean 4 Mbit/s" in text
    assert "longest gap 1 s" in text
    outage = BandwidthTrace((0,), (0,), None, S, "dead")
    assert set(sparkline(outage, "up")) == {"▁"}
