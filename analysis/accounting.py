"""Who wins under each way of counting bytes, side by side.

Whether splitting wins often turns on how the offloaded input is counted and on whether offload is
measured at all, so every variant is told.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.bins import Binned, bin_tables, common, fastest, fastest_kinds
from analysis.dataset import Dataset
from analysis.metrics import counted
from analysis.policies import KINDS, split_of
from analysis.replay import TIMED, of_each_device, own_steps, transfer_ns
from testbed.encodings import ITEM_BYTES, parse_features
from testbed.model.table import LOCAL, OFFLOAD

_NEEDED = (
    "run_id",
    "device",
    "split",
    "kind",
    "status",
    "trial",
    "t_s",
    "e2e_ns",
    "transfer_ns",
    *TIMED,
)


def _computed(data: Dataset, queries: pd.DataFrame, feature: float, pixel: float) -> pd.DataFrame:
    """Queries as if features and pixels had other widths: the transfer's difference is added."""
    e2e_ns = queries["e2e_ns"].to_numpy(copy=True)
    factor = np.where(queries["split"] == OFFLOAD, pixel, feature)
    remote = (queries["split"] != LOCAL).to_numpy()
    timed, before_ns = queries[TIMED], queries["transfer_ns"].to_numpy()
    runs = {run.run_id: run for run in data.runs}
    for run_id, device, places in of_each_device(queries):
        # A width that stays the same changes nothing.
        places = places[remote[places] & (factor[places] != 1.0)]
        if not len(places):
            continue
        up, down = own_steps(data, runs[run_id], device)
        scaled_ns = transfer_ns(timed.iloc[places], up, down, factor[places])
        e2e_ns[places] += scaled_ns - before_ns[places]
    return queries.assign(e2e_ns=e2e_ns)


def accountings(data: Dataset, queries: pd.DataFrame, binned: Binned) -> pd.DataFrame:
    """Per accounting: the static policy with the least mean, and who was fastest when.

    ``computed`` rows take the measured queries and add what the set rates say the other width
    costs, where every query's payload has the same length; policies that choose are left
    out, because they would have chosen otherwise. ``binned`` are the queries as measured, by
    :func:`analysis.bins.bin_tables`.
    """
    done = counted(queries, *_NEEDED)
    done = done[done["policy"].map(split_of).notna()]
    sent, pixels = data.feature_encoding, data.pixel_encoding
    static = {policy: table for policy, table in binned.items() if split_of(policy) is not None}
    left = {policy: table for policy, table in static.items() if policy != OFFLOAD}
    variants = {
        f"{pixels} pixels, {sent} features": ("measured", static),
        f"offload left out, {sent} features": ("measured", left),
    }
    if parse_features(sent).sized:
        other = "float16" if sent == "float32" else "float32"
        ratio = ITEM_BYTES[other] / ITEM_BYTES[sent]
        computed = bin_tables(_computed(data, done, ratio, 1.0))
        variants[f"{pixels} pixels, {other} features"] = ("computed", computed)
    if pixels == "uint8":
        computed = bin_tables(_computed(data, done, 1.0, ITEM_BYTES["float32"]))
        variants[f"float32 pixels, {sent} features"] = ("computed", computed)
    rows = []
    for name, (basis, variant) in variants.items():
        tables = common(variant)
        means = {p: t["sum"].sum() / t["n"].sum() for p, t in tables.items() if t["n"].sum()}
        if not means:
            continue
        best = min(means, key=lambda policy: means[policy])
        shares = fastest_kinds(fastest(variant))
        rows.append(
            {
                "accounting": name,
                "basis": basis,
                "best_static": best,
                "best_mean_ms": float(means[best]),
                **{f"{kind}_share": shares.get(kind) for kind in KINDS},
            }
        )
    return pd.DataFrame(rows)
