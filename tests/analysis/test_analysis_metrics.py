"""Metrics on golden campaigns, whose answers are known by construction."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import bins, metrics
from analysis.accounting import accountings
from analysis.answer import OverBest, against, answer, headline, over_best
from analysis.bootstrap import Interval
from analysis.dataset import load_dataset
from analysis.replay import RateSteps, rate_steps, transfer_ns, with_floor
from testbed.framing import serialisation_ns
from tests.analysis.synthetic import BASE_NETWORK_NS, COSTS, DEVICE_T0_NS, MS, REPLY_NS, Maker

STEADY = ((0, 10_000_000),)


def test_gain_is_twenty_percent_where_dynamic_takes_eighty_of_a_hundred(
    make_campaign: Maker,
) -> None:
    fixed = {"dynamic": 80.0, "offload": 100.0, "local": 160.0}
    data = load_dataset(make_campaign(policies=tuple(fixed), fixed_ms=fixed, duration_s=8))
    gains = bins.gains(bins.bin_tables(with_floor(data))).set_index("over")
    assert gains.loc["offload", "gain"] == pytest.approx(0.2, abs=1e-12)
    assert gains.loc["local", "gain_by_moment"] == pytest.approx(0.5, abs=1e-12)
    row = gains.loc["offload"]
    assert (row["gain_low"], row["gain_high"]) == (pytest.approx(0.2), pytest.approx(0.2))


def test_latency_table_has_the_constructed_means(make_campaign: Maker) -> None:
    fixed = {"offload": 100.0, "local": 50.0}
    data = load_dataset(make_campaign(policies=tuple(fixed), fixed_ms=fixed, duration_s=8))
    table = metrics.latency(with_floor(data)).set_index("policy")
    assert table.loc["offload", ["n", "mean_ms", "p50_ms"]].tolist() == [80, 100.0, 100.0]
    assert table.loc["local", "n"] == 160
    assert np.isnan(table.loc["offload", "p95_ms"])
    assert table.loc["local", "p95_ms"] == 50.0
    assert np.isnan(table.loc["local", "p99_ms"])


def test_parts_add_up_and_the_reply_is_told_by_the_clocks(golden: Path) -> None:
    data = load_dataset(golden)
    table = metrics.breakdown(with_floor(data)).set_index("policy")
    parts = table[[f"{part}_ms" for part in metrics.PARTS]].sum(axis=1)
    assert parts.to_numpy() == pytest.approx(table["e2e_ms"].to_numpy())
    assert table.loc["static:3", "reply_ms"] == pytest.approx(REPLY_NS / MS, abs=1e-3)
    assert table.loc["local", ["network_ms", "reply_ms", "wait_ms"]].tolist() == [0, 0, 0]


def test_floor_leaves_only_what_the_generator_added_on_top(golden: Path) -> None:
    """encode + decode + wait + decide + base network time, for each static split."""
    table = metrics.breakdown(with_floor(load_dataset(golden))).set_index("policy")
    for split in ("1", "3", "5"):
        _, encode, decode, _, _ = COSTS[split]
        added = (encode + decode + 120_000 + 2_000 + BASE_NETWORK_NS) / MS
        assert table.loc[f"static:{split}", "overhead_ms"] == pytest.approx(added, rel=0.05)


def test_transfers_meet_the_set_rates_of_a_link_that_keeps_changing(golden: Path) -> None:
    data = load_dataset(golden)
    table = metrics.transfers(with_floor(data), data.base_network_ns).set_index("policy")
    assert table["median_ratio"].to_numpy() == pytest.approx(1.0, abs=0.002)
    assert table.loc["static:3", "p95_abs_error"] < 0.01


def test_steady_rate_gives_the_serialisation_of_framing(make_campaign: Maker) -> None:
    data = load_dataset(make_campaign(policies=("static:3",), steps=STEADY, duration_s=2))
    queries = metrics.counted(data.queries)
    steps = [rate_steps(data, data.runs[0], side) for side in ("uplink", "downlink")]
    expected = serialisation_ns(COSTS["3"][4], 10_000_000) + serialisation_ns(4_064, 40_000_000)
    assert transfer_ns(queries, *steps) == pytest.approx(expected, abs=10)


def test_rate_is_integrated_over_its_steps() -> None:
    steps = RateSteps(np.array([-1.0, 1.0, 2.0]), np.array([8e6, 4e6, 2e6]))
    finish = steps.finish_s(np.array([0.5, 0.5, 1.5]), np.array([4e6, 9e6, 0.0]))
    assert finish == pytest.approx([1.0, 2.5, 1.5])
    assert steps.at(np.array([-5.0, 1.0, 9.0])).tolist() == [8e6, 4e6, 2e6]


def test_looping_schedule_is_unrolled_where_no_change_was_logged(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local",), steps=((0, 5_000_000), (MS * 500, 1_000_000)))
    (run_folder,) = [p.parent for p in root.glob("*/plan.json")]
    (run_folder / "link.jsonl").write_text("")
    data = load_dataset(root)
    data.runs[0].schedules["uplink"]["duration_ns"] = 1000 * MS
    found = rate_steps(data, data.runs[0], "uplink").at(np.array([0.2, 0.7, 7.2, 7.7]))
    assert found.tolist() == [5e6, 1e6, 5e6, 1e6]


def test_device_and_router_share_one_axis(golden: Path) -> None:
    """The first change was planned the replay's lead before the device began."""
    data = load_dataset(golden)
    first = data.changes.groupby("run_id")["t_s"].min()
    assert first.to_numpy() == pytest.approx(-0.004, abs=1e-9)
    assert (data.queries["t_s"] * 1e9 + DEVICE_T0_NS).to_numpy() == pytest.approx(
        data.queries["t_start_ns"].to_numpy()
    )


def test_prediction_and_estimate_have_the_generators_spread(golden: Path) -> None:
    queries = with_floor(load_dataset(golden))
    told = metrics.estimate(queries).set_index("policy")
    assert told.loc["dynamic", "median_ratio"] == pytest.approx(1.0, abs=0.03)
    # Median of |lognormal(0, 0.06) − 1| is 0.0405.
    assert told.loc["dynamic", "median_abs_error"] == pytest.approx(0.0405, abs=0.015)
    predicted = metrics.prediction(queries)
    assert predicted.iloc[0]["split"] == "all"
    assert predicted.iloc[0]["n"] == predicted.iloc[1:]["n"].sum()


def test_shares_of_choices_and_of_moments_are_whole(golden: Path) -> None:
    queries = with_floor(load_dataset(golden))
    chosen = metrics.choices(queries)
    assert chosen["query_share"].sum() == pytest.approx(1)
    assert chosen["time_share"].sum() == pytest.approx(1)
    assert sum(
        bins.fastest_kinds(bins.fastest(bins.bin_tables(queries))).values()
    ) == pytest.approx(1)


def test_fastest_follows_a_trace_that_is_first_fast_then_slow(make_campaign: Maker) -> None:
    """Offload at 40 Mbit/s, local at 1 Mbit/s: half of the moments each, but for those between."""
    steps = ((0, 40_000_000), (6000 * MS, 1_000_000))
    root = make_campaign(policies=("local", "offload", "dynamic"), steps=steps)
    queries = with_floor(load_dataset(root))
    shares = bins.fastest_kinds(bins.fastest(bins.bin_tables(queries)))
    assert set(shares) == {"local", "offload"}
    assert shares["offload"] == pytest.approx(0.5, abs=0.06)
    regret = bins.regret(bins.bin_tables(queries)).set_index("policy")
    assert regret.loc["dynamic", "regret_share"] < 0.05 < regret.loc["local", "regret_share"]


def test_accounting_turns_the_winner(make_campaign: Maker) -> None:
    """At 18 Mbit/s offload beats split 5 as uint8 pixels, and loses as float32 pixels."""
    root = make_campaign(policies=("local", "offload", "static:5"), steps=((0, 18_000_000),))
    data = load_dataset(root)
    queries = with_floor(data)
    table = accountings(data, queries, bins.bin_tables(queries))
    assert table["basis"].tolist() == ["measured", "measured", "computed", "computed"]
    assert table["best_static"].tolist() == ["offload", "static:5", "offload", "static:5"]
    assert table["offload_share"].isna().tolist() == [False, True, False, False]


def test_computed_accounting_adds_the_serialisation_of_the_wider_elements(
    make_campaign: Maker,
) -> None:
    data = load_dataset(make_campaign(policies=("static:5",), steps=STEADY, duration_s=4))
    queries = with_floor(data)
    table = accountings(data, queries, bins.bin_tables(queries)).set_index("accounting")[
        "best_mean_ms"
    ]
    narrow, wide = (serialisation_ns(n * COSTS["5"][4], 10_000_000) for n in (1, 2))
    added_ms = table["uint8 pixels, float32 features"] - table["uint8 pixels, float16 features"]
    assert added_ms == pytest.approx((wide - narrow) / MS, abs=1e-3)


def test_answer_says_better_worse_and_undecided(make_campaign: Maker) -> None:
    data = load_dataset(make_campaign(policies=("local", "offload", "dynamic"), duration_s=6))
    queries = with_floor(data)

    def told(dynamic_ms: float) -> str:
        changed = queries.copy()
        spread = np.resize([0.9, 1.1], len(changed))
        changed.loc[:, "e2e_ns"] = 100 * MS * spread
        rows = changed["policy"] == "dynamic"
        changed.loc[rows, "e2e_ns"] *= dynamic_ms / 100
        return answer(data, changed, bins.bin_tables(changed), "wander", "none")

    assert re.search(r"dynamic took 80(\.\d)? ms on average, 20\u00a0%", told(80))
    assert "less than the best static choice" in told(80)
    assert "more than the best static choice" in told(130)
    assert "no difference shown from the best static choice" in told(100)


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (
            Interval(0.12, -0.1, 0.34),
            "no difference shown from offload (9 ms): 12 % less "
            "(95 % interval from 10 % more to 34 % less, n = 97 and 102)",
        ),
        (
            Interval(0.12, 0.08, 0.34),
            "12 % less than offload (9 ms; 95 % interval 8.0 % to 34 % less, ",
        ),
        (
            Interval(-0.2, -0.3, -0.1),
            "20 % more than offload (9 ms; 95 % interval 10 % to 30 % more, ",
        ),
        (
            Interval.unknown(-0.2),
            "20 % more than offload (9 ms), too few to tell from chance (n = 97 ",
        ),
    ],
)
def test_a_gain_is_told_in_words_without_a_sign(gain: Interval, words: str) -> None:
    assert against("offload", "9 ms", gain, "97 and 102").replace("\u00a0", " ").startswith(words)


def told_over(*conditions: tuple[float, ...]) -> str:
    """The headline over conditions, each given by dynamic's gain in every trial."""
    best = [OverBest(float(np.mean(g)), 1 - np.array(g)) for g in conditions]
    return headline(["one", "two", "three"][: max(2, len(best))], best).replace("\u00a0", " ")


def test_headline_needs_no_sign_and_ranges_over_the_conditions() -> None:
    mixed = told_over((0.2, 0.2), (-0.1, -0.1), (0.34, 0.34))
    assert "It took less in 2 of 3; by condition, from 10 % more to 34 % less." in mixed
    assert "in 2 of 2; by condition, 2.0 % to 34 % less." in told_over((0.34,), (0.02,))
    assert "in 0 of 2; by condition, 10 % to 34 % more." in told_over((-0.34,), (-0.1,))
    assert told_over() == "2 conditions were measured; each has its answer below."


def test_headline_has_an_interval_over_condition_and_trial() -> None:
    less = told_over((0.2, 0.22), (0.25, 0.21))
    assert re.search(r"of each: 22 % less time \(95 % interval 2\d % to 2\d % less, n = 4 ", less)
    more = told_over((-0.2, -0.22), (-0.25, -0.21))
    assert re.search(r"of each: 22 % more time \(95 % interval 2\d % to 2\d % more, n = 4 ", more)
    assert re.search(
        r"no difference shown, 3.1 % less time \(95 % interval from 1\d % more to 2\d % less",
        told_over((0.2, -0.2), (0.2, -0.15)),
    )
    assert "20 % less time, too few to tell from chance (n = 2 pairs " in told_over((0.2,), (0.2,))
    assert "no trial has both" in headline(["a", "b"], [OverBest(0.1, np.empty(0))])


def test_dynamic_and_the_best_static_are_paired_by_trial(make_campaign: Maker) -> None:
    fixed = {"dynamic": 80.0, "offload": 100.0, "local": 160.0}
    made = make_campaign(policies=tuple(fixed), fixed_ms=fixed, duration_s=2, trials=3)
    queries = with_floor(load_dataset(made)).astype({"status": str})
    late = (queries["policy"] == "dynamic") & (queries["trial"] == 2)
    queries.loc[late, "status"] = "failed"
    found = over_best(queries)
    assert found is not None
    assert found.gain == pytest.approx(0.2)
    assert found.ratios.tolist() == pytest.approx([0.8, 0.8])
    assert over_best(queries[queries["policy"] != "dynamic"]) is None


def test_failed_queries_are_counted_and_kept_out_of_the_latencies(golden: Path) -> None:
    queries = with_floor(load_dataset(golden)).astype({"status": str})
    rows = queries.index[(queries["policy"] == "offload") & (queries["kind"] == "measured")]
    queries.loc[rows[:3], ["status", "e2e_ns"]] = ["failed", 10_000 * MS]
    queries.loc[rows[3:5], "status"] = "fallback"
    table = metrics.latency(queries).set_index("policy")
    assert table.loc["offload", ["failed", "fallback"]].tolist() == [3, 2]
    assert table.loc["offload", "n"] == len(rows) - 3
    assert table.loc["offload", "mean_ms"] < 1000


def test_empty_condition_gives_empty_tables(golden: Path) -> None:
    queries = with_floor(load_dataset(golden)).iloc[:0]
    made = [of(queries) for of in (metrics.latency, metrics.breakdown, metrics.choices)]
    made += [of(bins.bin_tables(queries)) for of in (bins.gains, bins.regret, bins.fastest)]
    for table in made:
        assert isinstance(table, pd.DataFrame)
        assert len(table) == 0


def test_accuracy_counts_the_images_of_each_split_and_needs_labels(golden: Path) -> None:
    queries = with_floor(load_dataset(golden))
    assert not len(metrics.accuracy(queries))
    wrong = (queries["split"] == "3") & (queries["query"] % 2 == 0)
    queries["correct"] = queries["batch"].where(~wrong, 0)
    table = metrics.accuracy(queries).set_index("split")
    assert table.loc["5", "accuracy"] == 1
    assert table.loc["3", "accuracy"] == pytest.approx(0.5, abs=0.02)
    local = metrics.counted(queries[queries["split"] == "local"])
    assert table.loc["local", "images"] == local["batch"].sum()
    assert table.loc["local", "mean_ms"] == pytest.approx(local["e2e_ns"].mean() / MS)
