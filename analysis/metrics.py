"""Figures of one condition (one link, one load), from its queries. Pure functions on frames.

Every function takes the rows of one condition as :func:`analysis.replay.with_floor` gives them
and returns one row a policy (or split); times are in milliseconds, shares between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.bootstrap import Interval, mean_interval, needed_for_percentile, percentile_interval
from analysis.policies import DYNAMIC, ordered_policies, ordered_splits
from testbed.model.table import LOCAL

PERCENTILES = (50, 95, 99)
PARTS = ("decide", "head", "encode", "network", "wait", "tail", "reply", "other")
_MS = 1e6


def measured(queries: pd.DataFrame) -> pd.DataFrame:
    """Measured queries, whatever became of them; no warm-up, no probes."""
    return queries[queries["kind"] == "measured"]


def counted(queries: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Measured queries that gave a result; a fallback's latency is the policy's own.

    With ``columns`` only the policy and those: of a million rows every other one is dear.
    """
    result = queries["status"].isin(["ok", "fallback"])
    kept = queries[list(dict.fromkeys(("policy", *columns)))] if columns else queries
    return kept[(queries["kind"] == "measured") & result]


def of_devices(rows: pd.DataFrame, devices: list[str]) -> pd.DataFrame:
    """The rows of some devices; all where none is named."""
    return rows[rows["device"].isin(devices)] if devices else rows


def under(rows: pd.DataFrame, link: str, load: str) -> pd.DataFrame:
    """The rows of one condition."""
    return rows[(rows["link"] == link) & (rows["load"] == load)]


def by_policy(queries: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(policy, its rows) in the order of display."""
    return [
        (p, queries[queries["policy"] == p]) for p in ordered_policies(queries["policy"].unique())
    ]


def _series(rows: pd.DataFrame) -> list[Any]:
    """Latencies in ms, one array a trial and device, in the order they were asked."""
    ordered = rows.sort_values(["trial", "t_s"])
    return [group["e2e_ns"].to_numpy() / _MS for _, group in ordered.groupby(["trial", "device"])]


def spread(name: str, found: Interval) -> dict[str, float]:
    """Three columns of a figure with its interval."""
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def latency(queries: pd.DataFrame) -> pd.DataFrame:
    """Per policy: n, mean and percentiles with 95 % intervals, what failed, fell back, was late.

    A percentile is NaN where n is below :func:`needed_for_percentile`.
    """
    rows = []
    needed = ["policy", "kind", "status", "late", "trial", "device", "t_s", "e2e_ns"]
    for policy, due in by_policy(measured(queries[needed])):
        done = counted(due)
        row: dict[str, Any] = {"policy": policy, "n": len(done)}
        series = _series(done) if len(done) else [np.empty(0)]
        mean = mean_interval(series) if len(done) else Interval.unknown(float("nan"))
        row |= spread("mean_ms", mean)
        for percent in PERCENTILES:
            row |= spread(f"p{percent}_ms", percentile_interval(series, percent / 100))
        row |= {f"{s}": int((due["status"] == s).sum()) for s in ("failed", "fallback")}
        row["late"] = int(due["late"].fillna(0).sum())
        rows.append(row)
    return pd.DataFrame(rows)


def breakdown(queries: pd.DataFrame) -> pd.DataFrame:
    """Per policy the mean of each part, their sum, the floor and the overhead above it.

    ``wait`` is the server's queue and decoding, ``network`` both ways where clocks do not tell the
    reply apart, ``other`` what the end-to-end time holds beyond the parts (the reply's encoding).
    """
    rows = []
    remote = ("server_wait_ns", "decode_ns", "tail_ns", "reply_ns", "network_ns")
    done = counted(queries, "decide_ns", "head_ns", "encode_ns", *remote, "e2e_ns", "floor_ns")
    for policy, part in by_policy(done):
        zero = part.fillna(dict.fromkeys(remote, 0.0))
        ns = {
            "decide": zero["decide_ns"],
            "head": zero["head_ns"],
            "encode": zero["encode_ns"],
            "network": zero["network_ns"] - zero["reply_ns"],
            "wait": zero["server_wait_ns"] + zero["decode_ns"],
            "tail": zero["tail_ns"],
            "reply": zero["reply_ns"],
        }
        ns["other"] = zero["e2e_ns"] - sum(ns.values())
        row: dict[str, Any] = {"policy": policy}
        row |= {f"{name}_ms": float(ns[name].mean()) / _MS for name in PARTS}
        row["e2e_ms"] = float(zero["e2e_ns"].mean()) / _MS
        row["floor_ms"] = float(zero["floor_ns"].mean()) / _MS
        row["overhead_ms"] = row["e2e_ms"] - row["floor_ms"]
        row["overhead_share"] = row["overhead_ms"] / row["e2e_ms"]
        rows.append(row)
    return pd.DataFrame(rows)


def _errors(ratio: pd.Series) -> dict[str, float]:
    off = (ratio - 1).abs()
    enough = len(off) >= needed_for_percentile(0.95)
    return {
        "n": len(ratio),
        "median_ratio": float(ratio.median()),
        "median_abs_error": float(off.median()),
        "p95_abs_error": float(off.quantile(0.95)) if enough else float("nan"),
    }


def prediction(queries: pd.DataFrame) -> pd.DataFrame:
    """Measured ÷ predicted latency, for each policy and split that was predicted."""
    told = counted(queries, "split", "e2e_ns", "predicted_ns").dropna(subset=["predicted_ns"])
    rows = []
    for policy, part in by_policy(told[told["predicted_ns"] > 0]):
        ratio = part["e2e_ns"] / part["predicted_ns"]
        splits = ordered_splits(part["split"].unique())
        if len(splits) > 1:
            rows.append({"policy": policy, "split": "all", **_errors(ratio)})
        rows += [
            {"policy": policy, "split": s, **_errors(ratio[part["split"] == s])} for s in splits
        ]
    return pd.DataFrame(rows)


def estimate(queries: pd.DataFrame) -> pd.DataFrame:
    """Rate estimate ÷ uplink rate set at the query's start, for each policy that estimates."""
    told = counted(queries, "rate_est_bps", "up_bps").dropna()
    return pd.DataFrame(
        [
            {"policy": policy, **_errors(part["rate_est_bps"] / part["up_bps"])}
            for policy, part in by_policy(told)
        ]
    )


def server_estimate(queries: pd.DataFrame, tails_ns: Mapping[str, float]) -> pd.DataFrame:
    """Per policy: estimated ÷ true slowdown of the server, and how far the queue was off.

    ``tails_ns`` are the profile's; the truth is the reply's own tail and wait. Only queries that
    crossed tell it.
    """
    needed = ("split", "status", "bytes_up", "tail_ns", "load_est", "wait_est_ns", "server_wait_ns")
    told = counted(queries, *needed)
    told = told[(told["status"] == "ok") & (told["bytes_up"] > 0) & (told["tail_ns"] > 0)]
    rows = []
    for policy, part in by_policy(told.assign(usual_ns=told["split"].map(tails_ns).astype(float))):
        off_ms = (part["wait_est_ns"] - part["server_wait_ns"]) / _MS
        rows.append(
            {
                "policy": policy,
                **_errors(part["load_est"] * part["usual_ns"] / part["tail_ns"]),
                "wait_ms": float(part["server_wait_ns"].mean()) / _MS,
                "wait_bias_ms": float(off_ms.mean()),
                "wait_error_ms": float(off_ms.abs().mean()),
            }
        )
    return pd.DataFrame(rows)


def choices(queries: pd.DataFrame) -> pd.DataFrame:
    """Share of the queries and of the time that ``dynamic`` spent on each split."""
    chose = queries.loc[
        queries["policy"] == DYNAMIC, ["policy", "kind", "status", "split", "e2e_ns"]
    ]
    part = counted(chose)
    rows = []
    for split in ordered_splits(part["split"].unique()):
        chosen = part[part["split"] == split]
        rows.append(
            {
                "split": split,
                "n": len(chosen),
                "query_share": len(chosen) / len(part),
                "time_share": float(chosen["e2e_ns"].sum() / part["e2e_ns"].sum()),
                "mean_ms": float(chosen["e2e_ns"].mean()) / _MS,
            }
        )
    return pd.DataFrame(rows)


def traffic(queries: pd.DataFrame) -> pd.DataFrame:
    """Payload each policy sent and received, and what its probes cost."""
    rows = []
    needed = ["policy", "kind", "status", "bytes_up", "bytes_down"]
    for policy, part in by_policy(queries.loc[queries["kind"] != "warmup", needed]):
        probes = part[part["kind"] == "probe"]
        done = counted(part)
        up = float(part["bytes_up"].sum())
        rows.append(
            {
                "policy": policy,
                "up_bytes_a_query": float(done["bytes_up"].mean()) if len(done) else float("nan"),
                "down_bytes_a_query": float(done["bytes_down"].mean())
                if len(done)
                else float("nan"),
                "probes": len(probes),
                "probe_bytes": float(probes["bytes_up"].sum()),
                "probe_byte_share": float(probes["bytes_up"].sum()) / up if up else 0.0,
            }
        )
    return pd.DataFrame(rows)


def transfers(queries: pd.DataFrame, base_network_ns: float) -> pd.DataFrame:
    """Transfer fidelity: measured network time ÷ (serialisation at the set rates + base).

    Only transfers whose serialisation is at least 5 ms count, because below that the base network
    time decides; 1.0 means that the link carried what was set.
    """
    done = counted(queries, "split", "status", "transfer_ns", "network_ns")
    large = done[(done["split"] != LOCAL) & (done["transfer_ns"] >= 5e6) & (done["status"] == "ok")]
    rows = []
    for policy, part in by_policy(large):
        ratio = part["network_ns"] / (part["transfer_ns"] + base_network_ns)
        rows.append({"policy": policy, **_errors(ratio)})
    return pd.DataFrame(rows)


def accuracy(queries: pd.DataFrame) -> pd.DataFrame:
    """Per split and encoding: the share of images classified rightly, beside the latency.

    Only of queries on labelled images whose logits came to the device; ``local`` is the whole
    model, which loses nothing.
    """
    needed = ("split", "encoding", "batch", "correct", "e2e_ns")
    told = counted(queries, *needed).dropna(subset=["correct"])
    rows = []
    for split in ordered_splits(told["split"].unique()):
        for encoding, part in told[told["split"] == split].groupby("encoding"):
            rows.append(
                {
                    "split": split,
                    "encoding": encoding,
                    "images": int(part["batch"].sum()),
                    "accuracy": float(part["correct"].sum() / part["batch"].sum()),
                    "mean_ms": float(part["e2e_ns"].mean()) / _MS,
                }
            )
    return pd.DataFrame(rows)
