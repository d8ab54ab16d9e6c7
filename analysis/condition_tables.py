"""The tables of one condition (one link, one load)."""

from __future__ import annotations

import pandas as pd

from analysis import accounting, bins, metrics
from analysis.dataset import Dataset
from analysis.formats import number
from analysis.hindsight import choice_costs
from analysis.outliers import outlier_tables
from analysis.policies import KINDS, policy_label, split_label
from analysis.tables import (
    POLICY,
    RATIOS,
    Column,
    Table,
    count,
    ms,
    num,
    number_range,
    percentile,
    share,
    share_range,
    text,
)


def condition_tables(
    data: Dataset, queries: pd.DataFrame, binned: bins.Binned, judged: pd.DataFrame
) -> list[Table]:
    """The tables of one condition; those without a row are left out.

    ``binned`` are the same queries by :func:`analysis.bins.bin_tables`, ``judged`` the same by
    :func:`analysis.hindsight.hindsight`.
    """
    made = [
        _latency(queries),
        _gains(binned),
        _breakdown(queries),
        _accountings(data, queries, binned),
        _choices(queries),
        _regret(binned),
        _choice_costs(judged),
        _prediction(queries),
        _estimate(queries),
        _server_estimate(data, queries),
        _transfers(data, queries),
        _traffic(queries),
        _accuracy(queries),
        *outlier_tables(queries),
    ]
    return [table for table in made if len(table.frame)]


def _latency(queries: pd.DataFrame) -> Table:
    return Table(
        "latency",
        "Latency of each policy",
        "End to end, as the device saw it. In brackets: 95 % intervals by circular-block bootstrap "
        "within the runs. A percentile is shown only where there are queries enough to bound it.",
        metrics.latency(queries),
        (
            POLICY,
            ("n", count("n")),
            ("mean ms", number_range("mean_ms")),
            *(percentile(share) for share in metrics.PERCENTILES),
            ("failed", count("failed")),
            ("fallback", count("fallback")),
            ("late", count("late")),
        ),
    )


def _gains(binned: bins.Binned) -> Table:
    return Table(
        "gain",
        "Gain of dynamic over each other policy",
        "1 − mean of dynamic ÷ mean of the other; positive: dynamic was faster. By query, a fast "
        "moment counts more, because more queries fit in; by moment, every "
        f"{bins.BIN_S} s of the trace counts the same. Intervals redraw the same moments for both.",
        bins.gains(binned),
        (
            ("over", lambda row: policy_label(row["over"])),
            ("gain by query", share_range("gain")),
            ("gain by moment", share_range("gain_by_moment")),
        ),
    )


def _breakdown(queries: pd.DataFrame) -> Table:
    frame = metrics.breakdown(queries)
    shown = [p for p in metrics.PARTS if len(frame) and (frame[f"{p}_ms"].abs() > 5e-4).any()]
    return Table(
        "breakdown",
        "Where the time goes",
        "Means in ms. The reply is told apart from the network where clock offsets are known, and "
        "is right to their bounds; wait is the server's queue and decoding. Floor: head + (wire "
        "bytes − burst) ÷ set rate + propagation + tail, the least that physics allows; overhead "
        "is what was measured above it.",
        frame,
        (
            POLICY,
            *((part, ms(part)) for part in shown),
            ("all", ms("e2e")),
            ("floor", ms("floor")),
            ("overhead", ms("overhead")),
            ("of all", share("overhead_share")),
        ),
    )


def _accountings(data: Dataset, queries: pd.DataFrame, binned: bins.Binned) -> Table:
    shares = tuple((f"{kind} fastest", share(f"{kind}_share")) for kind in KINDS)
    return Table(
        "accounting",
        "The winner under each way of counting bytes",
        f"Static choices only; shares are of the trace's {bins.BIN_S} s moments. Computed rows "
        "take the measured queries and add what the other width would cost at the set rates.",
        accounting.accountings(data, queries, binned),
        (
            ("accounting", text("accounting")),
            ("basis", text("basis")),
            ("best static", lambda row: policy_label(row["best_static"])),
            ("mean ms", num("best_mean_ms")),
            *shares,
        ),
        style="words",
    )


def _choices(queries: pd.DataFrame) -> Table:
    return Table(
        "choices",
        "What dynamic chose",
        "Share of its queries and of its time.",
        metrics.choices(queries),
        (
            ("split", lambda row: split_label(row["split"])),
            ("n", count("n")),
            ("of queries", share("query_share")),
            ("of time", share("time_share")),
            ("mean ms", num("mean_ms")),
        ),
    )


def _regret(binned: bins.Binned) -> Table:
    return Table(
        "regret",
        "Regret against the clairvoyant choice",
        f"The clairvoyant takes the best static choice of every {bins.BIN_S} s moment, as "
        "measured. It picks the least of several noisy means, so it is somewhat too good.",
        bins.regret(binned),
        (
            POLICY,
            ("clairvoyant ms", num("clairvoyant_ms")),
            ("regret ms", ms("regret")),
            ("regret", share("regret_share")),
        ),
    )


def _choice_costs(judged: pd.DataFrame) -> Table:
    return Table(
        "hindsight",
        "What the choices cost, and so the estimates",
        "Each query's split against the best one at its own moment: by the rates set, the server's "
        "median wait under that load and the campaign's median heads and tails, so that no fast or "
        "slow minute of the machine is in it. Of a policy that estimates, it is what its "
        "estimates' errors cost.",
        choice_costs(judged),
        (
            POLICY,
            ("n", count("n")),
            ("not the best", share("otherwise_share")),
            ("cost ms a query", num("cost_ms")),
            ("cost", share("cost_share")),
        ),
    )


def _prediction(queries: pd.DataFrame) -> Table:
    columns: tuple[Column, ...] = (
        POLICY,
        ("split", lambda row: row["split"] if row["split"] == "all" else split_label(row["split"])),
        *RATIOS,
    )
    note = "Measured latency ÷ the latency that was predicted when the split was chosen."
    frame = metrics.prediction(queries)
    return Table("prediction", "Predicted against measured", note, frame, columns)


def _estimate(queries: pd.DataFrame) -> Table:
    note = "Rate estimate ÷ uplink rate set at that moment."
    frame = metrics.estimate(queries)
    return Table("estimate", "Rate estimate against the rate set", note, frame, (POLICY, *RATIOS))


def _server_estimate(data: Dataset, queries: pd.DataFrame) -> Table:
    candidates = (data.profile or {}).get("candidates", {})
    tails_ns = {split: float(found["tail_ns"]) for split, found in candidates.items()}
    return Table(
        "server_estimate",
        "Load estimate against the server's own times",
        "Ratio: estimated ÷ true slowdown, the truth being the reply's tail ÷ the profile's. Wait: "
        "in the server's queue; bias and error are those of the wait that was expected.",
        metrics.server_estimate(queries, tails_ns),
        (
            POLICY,
            *RATIOS,
            ("wait ms", num("wait_ms")),
            ("bias ms", num("wait_bias_ms")),
            ("error ms", num("wait_error_ms")),
        ),
    )


def _transfers(data: Dataset, queries: pd.DataFrame) -> Table:
    return Table(
        "transfers",
        "Transfer fidelity",
        "Measured network time ÷ (serialisation at the rates set while it lasted + base network "
        "time of the profile), for transfers of 5 ms and more. 1.0: the link carried what was set.",
        metrics.transfers(queries, data.base_network_ns),
        (POLICY, *RATIOS),
    )


def _traffic(queries: pd.DataFrame) -> Table:
    return Table(
        "traffic",
        "Payload sent, and the price of probing",
        "Payload bytes of the measured queries; probes keep the estimate fresh during local work.",
        metrics.traffic(queries),
        (
            POLICY,
            ("up kB a query", lambda row: number(row["up_bytes_a_query"] / 1e3)),
            ("down kB a query", lambda row: number(row["down_bytes_a_query"] / 1e3)),
            ("probes", count("probes")),
            ("probes' share of bytes", share("probe_byte_share")),
        ),
    )


def _accuracy(queries: pd.DataFrame) -> Table:
    return Table(
        "accuracy",
        "Accuracy beside latency",
        "Of the labelled images that the queries were made of, over all policies; local is the "
        "whole model. Images repeat: n counts them each time.",
        metrics.accuracy(queries),
        (
            ("split", lambda row: split_label(row["split"])),
            ("encoding", lambda row: row["encoding"] or "nothing crosses"),
            ("n", count("images")),
            ("right", share("accuracy")),
            ("mean ms", num("mean_ms")),
        ),
    )
