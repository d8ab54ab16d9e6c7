"""The report's tables: one frame each, shown in HTML, kept as CSV and in the summary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import accounting, bins, metrics, trust
from analysis.bootstrap import needed_for_percentile
from analysis.dataset import Dataset
from analysis.formats import (
    Cell,
    known,
    milliseconds,
    number,
    percent,
    percent_ranged,
    ranged,
    yes_no,
)
from analysis.policies import KINDS, policy_label, split_label

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], Cell | str]]


@dataclass(frozen=True)
class Table:
    """A frame with the columns that a person sees and what they mean."""

    name: str
    title: str
    note: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]

    @property
    def header(self) -> list[str]:
        """Column titles."""
        return [title for title, _ in self.columns]

    @property
    def cells(self) -> list[list[Cell]]:
        """Rows as shown."""
        shown = []
        for row in self.frame.to_dict("records"):
            made = [show({str(k): v for k, v in row.items()}) for _, show in self.columns]
            shown.append([Cell(cell) if isinstance(cell, str) else cell for cell in made])
        return shown


def _num(key: str) -> Callable[[Row], str]:
    return lambda row: number(row[key])


def _ms(name: str) -> Callable[[Row], str]:
    return lambda row: milliseconds(row[f"{name}_ms"])


def _pct(key: str) -> Callable[[Row], str]:
    return lambda row: percent(row[key])


def _int(key: str) -> Callable[[Row], str]:
    return lambda row: f"{row[key]:.0f}" if known(row[key]) else number(None)


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: str(row[key])


def _rng(key: str) -> Callable[[Row], Cell]:
    return lambda row: ranged(row[key], row[f"{key}_low"], row[f"{key}_high"])


def _pct_rng(key: str) -> Callable[[Row], Cell]:
    return lambda row: percent_ranged(row[key], row[f"{key}_low"], row[f"{key}_high"])


def _percentile(share: int) -> Column:
    needed = needed_for_percentile(share / 100)

    def show(row: Row) -> Cell:
        if known(row[f"p{share}_ms"]):
            return _rng(f"p{share}_ms")(row)
        return Cell("", f"n < {needed}")

    return f"p{share} ms", show


_POLICY: Column = ("policy", lambda row: policy_label(row["policy"]))
_RATIOS: tuple[Column, ...] = (
    ("n", _int("n")),
    ("median ratio", _num("median_ratio")),
    ("median error", _pct("median_abs_error")),
    ("p95 error", _pct("p95_abs_error")),
)


def condition_tables(data: Dataset, queries: pd.DataFrame) -> list[Table]:
    """The tables of one condition; those without a row are left out."""
    made = [
        _latency(queries),
        _gains(queries),
        _breakdown(queries),
        _accountings(data, queries),
        _choices(queries),
        _regret(queries),
        _prediction(queries),
        _estimate(queries),
        _transfers(data, queries),
        _traffic(queries),
    ]
    return [table for table in made if len(table.frame)]


def _latency(queries: pd.DataFrame) -> Table:
    return Table(
        "latency",
        "Latency of each policy",
        "End to end, as the device saw it. In brackets: 95 % intervals by moving-block bootstrap "
        "within the runs. A percentile is shown only where there are queries enough to bound it.",
        metrics.latency(queries),
        (
            _POLICY,
            ("n", _int("n")),
            ("mean ms", _rng("mean_ms")),
            *(_percentile(share) for share in metrics.PERCENTILES),
            ("failed", _int("failed")),
            ("fallback", _int("fallback")),
            ("late", _int("late")),
        ),
    )


def _gains(queries: pd.DataFrame) -> Table:
    return Table(
        "gain",
        "Gain of dynamic over each static choice",
        "1 − mean of dynamic ÷ mean of the other; positive: dynamic was faster. By query, a fast "
        "moment counts more, because more queries fit in; by moment, every "
        f"{bins.BIN_S} s of the trace counts the same. Intervals redraw the same moments for both.",
        bins.gains(queries),
        (
            ("over", lambda row: policy_label(row["over"])),
            ("gain by query", _pct_rng("gain")),
            ("gain by moment", _pct_rng("gain_by_moment")),
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
            _POLICY,
            *((part, _ms(part)) for part in shown),
            ("all", _ms("e2e")),
            ("floor", _ms("floor")),
            ("overhead", _ms("overhead")),
            ("of all", _pct("overhead_share")),
        ),
    )


def _accountings(data: Dataset, queries: pd.DataFrame) -> Table:
    shares = tuple((f"{kind} fastest", _pct(f"{kind}_share")) for kind in KINDS)
    return Table(
        "accounting",
        "The winner under each way of counting bytes",
        f"Static choices only; shares are of the trace's {bins.BIN_S} s moments. Computed rows "
        "take the measured queries and add what the other width would cost at the set rates.",
        accounting.accountings(data, queries),
        (
            ("accounting", _text("accounting")),
            ("basis", _text("basis")),
            ("best static", lambda row: policy_label(row["best_static"])),
            ("mean ms", _num("best_mean_ms")),
            *shares,
        ),
    )


def _choices(queries: pd.DataFrame) -> Table:
    return Table(
        "choices",
        "What dynamic chose",
        "Share of its queries and of its time.",
        metrics.choices(queries),
        (
            ("split", lambda row: split_label(row["split"])),
            ("n", _int("n")),
            ("of queries", _pct("query_share")),
            ("of time", _pct("time_share")),
            ("mean ms", _num("mean_ms")),
        ),
    )


def _regret(queries: pd.DataFrame) -> Table:
    return Table(
        "regret",
        "Regret against the clairvoyant choice",
        f"The clairvoyant takes the best static choice of every {bins.BIN_S} s moment, as "
        "measured. It picks the least of several noisy means, so it is somewhat too good.",
        bins.regret(queries),
        (
            _POLICY,
            ("clairvoyant ms", _num("clairvoyant_ms")),
            ("regret ms", _ms("regret")),
            ("regret", _pct("regret_share")),
        ),
    )


def _prediction(queries: pd.DataFrame) -> Table:
    columns: tuple[Column, ...] = (
        _POLICY,
        ("split", lambda row: row["split"] if row["split"] == "all" else split_label(row["split"])),
        *_RATIOS,
    )
    note = "Measured latency ÷ the latency that was predicted when the split was chosen."
    frame = metrics.prediction(queries)
    return Table("prediction", "Predicted against measured", note, frame, columns)


def _estimate(queries: pd.DataFrame) -> Table:
    note = "Rate estimate ÷ uplink rate set at that moment."
    frame = metrics.estimate(queries)
    return Table("estimate", "Rate estimate against the rate set", note, frame, (_POLICY, *_RATIOS))


def _transfers(data: Dataset, queries: pd.DataFrame) -> Table:
    return Table(
        "transfers",
        "Transfer fidelity",
        "Measured network time ÷ (serialisation at the rates set while it lasted + base network "
        "time of the profile), for transfers of 5 ms and more. 1.0: the link carried what was set.",
        metrics.transfers(queries, data.base_network_ns),
        (_POLICY, *_RATIOS),
    )


def _traffic(queries: pd.DataFrame) -> Table:
    return Table(
        "traffic",
        "Payload sent, and the price of probing",
        "Payload bytes of the measured queries; probes keep the estimate fresh during local work.",
        metrics.traffic(queries),
        (
            _POLICY,
            ("up kB a query", lambda row: number(row["up_bytes_a_query"] / 1e3)),
            ("down kB a query", lambda row: number(row["down_bytes_a_query"] / 1e3)),
            ("probes", _int("probes")),
            ("probes' share of bytes", _pct("probe_byte_share")),
        ),
    )


def campaign_tables(data: Dataset, queries: pd.DataFrame) -> list[Table]:
    """The tables of the whole campaign; those without a row are left out."""
    verify = tuple((key, lambda row, k=key: yes_no(row[k])) for key in ("digest", "equal", "top1"))
    made = [
        Table(
            "link",
            "Link fidelity",
            "How late the router applied the rate changes, and the bytes that the shaped class "
            "carried ÷ the framed bytes of the payloads sent (acknowledgements make it a little "
            "more than 1).",
            trust.link_table(data, queries),
            (
                ("link", _text("link")),
                ("direction", _text("direction")),
                ("changes", _int("changes")),
                ("late p50 ms", _num("late_p50_ms")),
                ("late p99 ms", _num("late_p99_ms")),
                ("late max ms", _num("late_max_ms")),
                ("carried ÷ offered", _num("carried_share")),
                ("drops", _int("drops")),
            ),
        ),
        Table(
            "load",
            "Load achieved on the server",
            "Means over the runs' load records.",
            trust.load_table(data),
            (
                ("load", _text("load")),
                ("records", _int("n")),
                ("clients", _num("clients")),
                ("queries a second", _num("queries_per_s")),
                ("CPU busy", _pct("busy_share")),
            ),
        ),
        Table(
            "verify",
            "Split equals whole, over the wire",
            "Bytes received are the bytes sent; the result against the whole model's there.",
            trust.verify_table(data),
            (
                ("split", lambda row: split_label(row["split"])),
                *verify,
                ("largest difference", _num("max_abs")),
            ),
        ),
        Table(
            "clocks",
            "Clocks",
            "How far a host's clock offset may be off, and how much it moved in a run, at worst. "
            "Only the figures that set router and device on one axis need it.",
            trust.clock_table(data),
            (
                ("host", _text("host")),
                ("bound µs", _num("bound_us")),
                ("drift µs", _num("drift_us")),
            ),
        ),
        Table(
            "runs",
            "Runs",
            "In the order they were run.",
            trust.run_table(data, queries),
            (
                ("run", _text("run_id")),
                ("state", _text("state")),
                ("validity", _text("validity")),
                ("queries", _int("queries")),
                ("length s", _num("duration_s")),
                ("stolen CPU", _pct("steal_share")),
                ("page faults", _int("page_faults")),
            ),
        ),
    ]
    return [table for table in made if len(table.frame)]
