"""The figures of a sweep's report: what each shows, how to see it, and its data."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.figures.style import Drawing
from analysis.figures.sweep import (
    draw_best,
    draw_cells,
    draw_gain,
    draw_latency,
    draw_variants,
    shown_batches,
)
from analysis.sweep import Sweep, best_of, best_static, gain_map, latencies, shares
from analysis.sweep_tables import cells_table

_MBIT = 1e6


def sweep_drawings(sweep: Sweep) -> dict[str, Drawing]:
    """Every figure by its name; ``cells`` only where one was run."""
    variant = sweep.measured_variant
    told = variant.label
    some = "" if len(shown_batches(sweep)) == len(sweep.batches) else " Some of the batch sizes."
    rows = [shares(sweep, each) for each in sweep.variants]
    found = [
        Drawing(
            "variants",
            "Who is the fastest, under every accounting",
            "The same measured times throughout: only what is counted as sent differs.",
            draw_variants(rows),
            pd.DataFrame(rows),
        ),
        Drawing(
            "latency",
            "Latency against rate",
            f"Predicted from the profile, {told}. Dots: the fastest choice changes there.{some}",
            draw_latency(sweep, variant),
            _latencies(sweep),
        ),
        Drawing(
            "best",
            "The map of the best split",
            f"Over rate × batch, and over rate × server load ({told}). Load is how many times "
            f"longer the server takes.{some}",
            draw_best(sweep, variant),
            _best(sweep),
        ),
        Drawing(
            "gain",
            "What each static choice loses",
            f"Its latency over the best choice's, cell by cell, on one scale ({told}); 1 where it "
            "is the best choice itself. Nothing is clipped. Bold: the best static choice.",
            draw_gain(sweep, variant, best_static(sweep, variant)),
            _gain(sweep),
        ),
    ]
    if any(row["n"] for cell in sweep.cells for row in cell["candidates"].values()):
        found.append(
            Drawing(
                "cells",
                "Predicted against measured",
                "Cells of the grid that were really run; on the line the prediction was right. "
                "Bars reach from the least to the most.",
                draw_cells(sweep),
                cells_table(sweep).frame,
            )
        )
    return {drawing.name: drawing for drawing in found}


def _latencies(sweep: Sweep) -> pd.DataFrame:
    rates = sweep.rates_bps
    parts = [
        pd.DataFrame(
            {
                "batch": batch,
                "split": split,
                "rate_mbps": np.array(rates) / _MBIT,
                "predicted_ms": times,
            }
        )
        for batch in sweep.batches
        for split, times in latencies(sweep, sweep.measured_variant, batch, rates).items()
    ]
    return pd.concat(parts, ignore_index=True)


def _best(sweep: Sweep) -> pd.DataFrame:
    rates = sweep.rates_bps
    parts = []
    for batch in sweep.batches:
        for load in dict.fromkeys((1.0, *sweep.loads)):
            found = latencies(sweep, sweep.measured_variant, batch, rates, load)
            fastest, times = best_of(found)
            place = {"batch": batch, "load": load, "rate_mbps": np.array(rates) / _MBIT}
            parts.append(pd.DataFrame({**place, "fastest": fastest, "predicted_ms": times}))
    return pd.concat(parts, ignore_index=True)


def _gain(sweep: Sweep) -> pd.DataFrame:
    variant = sweep.measured_variant
    rates = np.array(sweep.rates_bps) / _MBIT
    parts = [
        pd.DataFrame({"static": static, "batch": batch, "rate_mbps": rates, "times_as_long": ratio})
        for static in sweep.statics(variant)
        for batch, ratio in zip(sweep.batches, gain_map(sweep, variant, static), strict=True)
    ]
    return pd.concat(parts, ignore_index=True)
