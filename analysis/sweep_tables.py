"""Tables of the sweep's report."""

from __future__ import annotations

import pandas as pd

from analysis.formats import percent
from analysis.policies import ordered_splits, split_label
from analysis.sweep import Sweep, Variant, best_of, gain_map, latencies, off, shares, stretches
from analysis.tables import Row, Table, count, ms, num, share, text
from testbed.model.table import OFFLOAD


def _split(row: Row) -> str:
    return split_label(row["split"])


def variants_table(sweep: Sweep) -> Table:
    """Who is the fastest how often, under each accounting."""
    frame = pd.DataFrame([shares(sweep, variant) for variant in sweep.variants])
    return Table(
        "accounting",
        "Every accounting side by side",
        "Shares of all rates × batch sizes. The gain is of the best split over the better end, "
        "where a split beats both. “Left out” is what public code does.",
        frame,
        (
            ("accounting", text("accounting")),
            ("local", share("local_share")),
            ("a split", share("split_share")),
            ("offload", share("offload_share")),
            ("median gain", share("gain_median")),
            ("largest gain", share("gain_max")),
        ),
    )


def crossings_table(sweep: Sweep, variant: Variant) -> Table:
    """From which rate to which each split is the fastest."""
    rows = []
    for batch in sweep.batches:
        best, _ = best_of(latencies(sweep, variant, batch, sweep.rates_bps))
        for found in stretches(best, sweep.rates_bps):
            rows.append(
                {
                    "batch": batch,
                    "split": found.split,
                    "low_mbps": found.low_bps / 1e6,
                    "high_mbps": found.high_bps / 1e6,
                }
            )
    return Table(
        "crossovers",
        "Where the best split changes",
        "Rates of the grid, both ends included; a crossover lies between two lines.",
        pd.DataFrame(rows),
        (("batch", count("batch")), ("fastest", _split), ("rates, Mbit/s", _span)),
        style="words",
    )


def _span(row: Row) -> str:
    # Rates that were asked for, as they were: not rounded.
    return " to ".join(dict.fromkeys(f"{row[key]:g}" for key in ("low_mbps", "high_mbps")))


def statics_table(sweep: Sweep, variant: Variant) -> Table:
    """What the best choice at each cell is worth against each choice kept for all."""
    rows = []
    for static in sweep.statics(variant):
        ratio = gain_map(sweep, variant, static)
        rows.append(
            {
                "split": static,
                "best_share": float((ratio <= 1).mean()),
                "mean_saving": float((1 - 1 / ratio).mean()),
                "max_ratio": float(ratio.max()),
            }
        )
    return Table(
        "statics",
        "What choosing is worth against each static choice",
        "Over all rates × batch sizes, by the formula: how often the static choice is the best, "
        "the mean share of its latency that the best choice saves, and the worst cell.",
        pd.DataFrame(rows),
        (
            ("static choice", _split),
            ("is the best in", share("best_share")),
            ("mean saving", share("mean_saving")),
            ("worst: times as long", num("max_ratio")),
        ),
    )


def cells_table(sweep: Sweep) -> Table:
    """Predicted against measured, each candidate of each cell that was run."""
    rows = [
        {
            "rate_mbps": cell["rate_bps"] / 1e6,
            "batch": cell["batch"],
            "split": split,
            "predicted_ms": row["predicted_ns"] / 1e6,
            "measured_ms": None if row["measured_ns"] is None else row["measured_ns"] / 1e6,
            "error": off(row, "predicted_ns"),
            "formula_error": off(row, "retimed_ns"),
            "n": row["n"],
        }
        for cell in sweep.cells
        for split in ordered_splits(cell["candidates"])
        for row in [cell["candidates"][split]]
    ]
    numbers = ["predicted_ms", "measured_ms", "error", "formula_error", "n"]
    return Table(
        "cells",
        "Cells that were really run",
        "Drawn by the seed; medians on the shaped link. A positive error: it took longer than "
        "predicted. Formula's error: the prediction from the heads and tails of the cell's own "
        "queries, whatever the hosts' speed was when they were profiled.",
        pd.DataFrame(rows, columns=["rate_mbps", "batch", "split", *numbers]),
        (
            ("split", _split),
            ("rate Mbit/s", lambda row: f"{row['rate_mbps']:g}"),
            ("batch", count("batch")),
            ("predicted ms", ms("predicted")),
            ("measured ms", ms("measured")),
            ("error", share("error")),
            ("formula's error", share("formula_error")),
            ("n", count("n")),
        ),
    )


def profile_table(sweep: Sweep) -> Table:
    """The profile that everything is computed from."""
    rows = [
        {
            "batch": batch,
            "split": split,
            "head_ms": found["head_ns"] / 1e6,
            "tail_ms": found["tail_ns"] / 1e6,
            "interval": found["interval_share"],
            "n": found["n"],
        }
        for batch in sweep.batches
        for split in sweep.splits
        for found in [sweep.profile["batches"][str(batch)]["candidates"][split]]
    ]
    return Table(
        "profile",
        "The profile",
        "Medians in the rhythm of a run; ± is half the 95 % interval of the median of head and "
        "tail together.",
        pd.DataFrame(rows),
        (
            ("split", _split),
            ("batch", count("batch")),
            ("head ms", ms("head")),
            ("tail ms", ms("tail")),
            ("±", share("interval")),
            ("n", count("n")),
        ),
    )


def loads_table(sweep: Sweep) -> Table:
    """What becomes of the tails while clients keep the server's executor busy."""
    rows = []
    for clients, under in sweep.profile.get("loads", {}).items():
        alone = sweep.profile["batches"][str(under["batch"])]["candidates"]
        for split in ordered_splits(under["candidates"]):
            found, usual_ns = under["candidates"][split], alone[split]["tail_ns"]
            rows.append(
                {
                    "clients": int(clients),
                    "split": split,
                    "wait_ms": found["wait_ns"] / 1e6,
                    "tail_ms": found["tail_ns"] / 1e6,
                    "load": (found["wait_ns"] + found["tail_ns"]) / usual_ns,
                    "n": found["n"],
                }
            )
    return Table(
        "loads",
        "The server under load",
        "Clients that ask for the whole model in a closed loop, on the same executor. The load is "
        "how many times longer than alone the server takes, wait and tail: the axis of the map.",
        pd.DataFrame(rows),
        (
            ("split", _split),
            ("clients", count("clients")),
            ("wait ms", ms("wait")),
            ("tail ms", ms("tail")),
            ("load", num("load")),
            ("n", count("n")),
        ),
    )


def _total_ms(sweep: Sweep, encoding: str, split: str, batch: int) -> float:
    """The predicted latency of one encoding at the rate that the profile was measured at."""
    pixels, features = sweep.measured_variant
    variant = Variant(encoding, features) if split == OFFLOAD else Variant(pixels, encoding)
    return float(latencies(sweep, variant, batch, [sweep.profile["rate_bps"]])[split][0])


def encodings_table(sweep: Sweep) -> Table:
    """What each encoding costs and loses, at the largest batch size."""
    batch = sweep.batches[-1]
    labelled = next(
        (
            found
            for rows in sweep.encodings[str(batch)].values()
            for found in rows.values()
            if "accuracy" in found
        ),
        None,
    )
    whole = (
        f"Of {labelled['images']} labelled images the whole model has "
        f"{percent(labelled['whole_accuracy'])} right. "
        if labelled
        else ""
    )
    real = sweep.experiment.get("inputs", "synthetic") != "synthetic"
    rows = [
        {
            "encoding": name,
            "split": split,
            "kb": found["bytes"] / 1e3,
            "encode_ms": found["encode_ns"] / 1e6,
            "decode_ms": found["decode_ns"] / 1e6,
            "top1_share": found.get("top1_share"),
            "max_abs": found.get("max_abs"),
            "mean_abs": found.get("mean_abs"),
            "accuracy": found.get("accuracy"),
            "total_ms": _total_ms(sweep, name, split, batch),
        }
        for name, splits in sweep.encodings[str(batch)].items()
        for split, found in splits.items()
    ]
    return Table(
        "encodings",
        f"What crosses, at batch {batch}",
        "Bytes of one query. Encoding is timed on the device, decoding on the server. Agreement is "
        "with the whole model: the share of images that keep their class, and how far logits are "
        "off, at most and in the mean. The images are "
        + ("the experiment's own. " if real else "synthetic, with the spectrum of photographs. ")
        + whole
        + f"The latency is predicted, at the profile's {sweep.profile['rate_bps'] / 1e6:g} Mbit/s.",
        pd.DataFrame(rows),
        (
            ("encoding", text("encoding")),
            ("split", _split),
            ("latency ms", ms("total")),
            *((("right", share("accuracy")),) if labelled else ()),
            ("kB", num("kb")),
            ("encode ms", ms("encode")),
            ("decode ms", ms("decode")),
            ("same class", share("top1_share")),
            ("most off", num("max_abs")),
            ("mean off", num("mean_abs")),
        ),
    )
