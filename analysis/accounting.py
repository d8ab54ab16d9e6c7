"""Who wins under each way of counting bytes, side by side.

Whether splitting wins often turns on how the offloaded input is counted and on whether offload is
measured at all, so every variant is told.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.bins import bin_tables, common, fastest, fastest_kinds
from analysis.dataset import Dataset
from analysis.metrics import counted
from analysis.policies import DYNAMIC, KINDS
from analysis.replay import rate_steps, transfer_ns
from testbed.model.table import LOCAL, OFFLOAD

# Bytes an element relative to each other; pixels are sent as uint8.
_WIDTH = {"float32": 4, "float16": 2}


def _computed(data: Dataset, queries: pd.DataFrame, feature: float, pixel: float) -> pd.DataFrame:
    """Queries as if features and pixels had other widths: the transfer's difference is added."""
    parts = []
    for run in data.runs:
        rows = queries[queries["run_id"] == run.run_id].copy()
        if not len(rows):
            continue
        steps = [rate_steps(data, run, side) for side in ("uplink", "downlink")]
        factor = np.where(rows["split"] == OFFLOAD, pixel, feature)
        scaled = transfer_ns(rows, steps[0], steps[1], factor)
        remote = rows["split"] != LOCAL
        rows["e2e_ns"] += np.where(remote, scaled - rows["transfer_ns"], 0.0)
        parts.append(rows)
    return pd.concat(parts, ignore_index=True) if parts else queries


def accountings(data: Dataset, queries: pd.DataFrame) -> pd.DataFrame:
    """Per accounting: the static policy with the least mean, and who was fastest when.

    ``computed`` rows take the measured queries and add what the set rates say the other width
    costs; ``dynamic`` is left out, because it would have chosen otherwise.
    """
    done = counted(queries[queries["policy"] != DYNAMIC])
    sent = data.feature_encoding
    other = "float16" if sent == "float32" else "float32"
    ratio = _WIDTH[other] / _WIDTH[sent]
    variants = {
        f"uint8 pixels, {sent} features": ("measured", done),
        f"offload left out, {sent} features": ("measured", done[done["policy"] != OFFLOAD]),
        f"uint8 pixels, {other} features": ("computed", _computed(data, done, ratio, 1.0)),
        f"float32 pixels, {sent} features": ("computed", _computed(data, done, 1.0, 4.0)),
    }
    rows = []
    for name, (basis, variant) in variants.items():
        tables = common(bin_tables(variant))
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
