"""The sweep's arithmetic: every cell of the grid under every accounting, from what was measured.

``T = head + encode + (wire bytes − burst)/rate + base network time + (decode + tail) · load``,
after Bakhtiarnia et al. (arXiv 2205.11269), with the parts that public code leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.documents import Document, read_optional
from analysis.policies import ordered_splits
from testbed.errors import UserError
from testbed.framing import serialisation_ns
from testbed.model.table import LOCAL, OFFLOAD
from testbed.records import read_json

Floats = NDArray[np.float64]

# Header of a frame on the wire (testbed/worker/wire.py).
_FRAME_BYTES = 64


class Variant(NamedTuple):
    """One way of accounting; ``pixels`` is None where offload is left out, as public code does."""

    pixels: str | None
    features: str

    @property
    def label(self) -> str:
        """Its name in tables and figures."""
        offload = f"as {self.pixels}" if self.pixels else "left out"
        return f"offload {offload}, {self.features} features"


@dataclass(frozen=True)
class Sweep:
    """What ``testbed sweep`` left in its folder."""

    folder: Path
    experiment: Document
    profile: Document
    encodings: Document
    cells: tuple[Document, ...]
    verify: Document
    link_faults: tuple[str, ...]

    @property
    def batches(self) -> list[int]:
        """Batch sizes measured, rising."""
        return sorted(map(int, self.profile["batches"]))

    @property
    def splits(self) -> list[str]:
        """Every candidate, ``local`` first and ``offload`` last."""
        first = self.profile["batches"][str(self.batches[0])]
        return ordered_splits(first["candidates"])

    @property
    def rates_bps(self) -> list[int]:
        """Rates of the grid."""
        spec = self.experiment["sweep"]
        return list(range(spec["low"], spec["high"] + 1, spec["step"]))

    @property
    def cells_planned(self) -> int:
        """How many cells were to be really run."""
        planned: int = self.experiment["sweep"]["cells"]
        return min(planned, len(self.batches) * len(self.rates_bps))

    @property
    def loads(self) -> list[float]:
        """Server slowdowns of the grid."""
        return [float(load) for load in self.experiment["sweep"]["loads"]]

    @property
    def variants(self) -> list[Variant]:
        """Every accounting: each input encoding, and offload left out, by each of features."""
        spec = self.experiment["sweep"]
        return [Variant(p, f) for p, f in product((*spec["inputs"], None), spec["features"])]

    def statics(self, variant: Variant) -> list[str]:
        """The choices that an accounting knows, each a static policy."""
        return [s for s in self.splits if s != OFFLOAD or variant.pixels is not None]

    @property
    def measured_variant(self) -> Variant:
        """The accounting that the profile and the cells were measured with, or the first."""
        told = self.experiment["encoding"]
        variant = Variant(told["input"], told["features"])
        return variant if variant in self.variants else self.variants[0]


def is_sweep(folder: Path) -> bool:
    """Whether a folder is one of ``testbed sweep``, which alone appraises encodings."""
    return (folder / "encodings.json").is_file()


def load_sweep(folder: Path) -> Sweep:
    """Read a sweep's folder; UserError where a file is missing, broken, or of a newer release."""
    names = ("experiment.resolved", "profile", "encodings", "cells", "verify")
    lacking = [n for n in names if n != "cells" and not (folder / f"{n}.json").is_file()]
    if lacking:
        raise UserError(
            f"{folder}: expected a sweep's folder, it lacks {', '.join(lacking)}; run one: "
            "testbed sweep experiments/paper-grid.yaml"
        )
    cells = folder / "cells.json"
    return Sweep(
        folder,
        dict(read_json(folder / "experiment.resolved.json", "experiment")["experiment"]),
        read_json(folder / "profile.json", "batches"),
        dict(read_json(folder / "encodings.json", "batches")["batches"]),
        tuple(read_json(cells, "cells")["cells"]) if cells.is_file() else (),
        dict(read_json(folder / "verify.json", "splits")["splits"]),
        tuple((read_optional(folder / "link_verification.json") or {}).get("faults", ())),
    )


def latencies(
    sweep: Sweep, variant: Variant, batch: int, rates_bps: Sequence[int], load: float = 1.0
) -> dict[str, Floats]:
    """Predicted milliseconds of each candidate of an accounting at each rate, by split."""
    profile = sweep.profile["batches"][str(batch)]
    coded = sweep.encodings[str(batch)]
    found = {}
    for split in sweep.splits:
        times = profile["candidates"][split]
        if split == LOCAL:
            found[split] = np.full(len(rates_bps), times["head_ns"] / 1e6)
            continue
        name = variant.pixels if split == OFFLOAD else variant.features
        if name is None:
            continue
        found[split] = _remote(profile, times, coded[name][split], rates_bps, load)
    return found


def _remote(
    profile: Document, times: Document, coded: Document, rates_bps: Iterable[int], load: float
) -> Floats:
    size = coded["bytes"] + _FRAME_BYTES
    uplink = np.array([serialisation_ns(size, rate) for rate in rates_bps], dtype=float)
    device = times["head_ns"] + coded["encode_ns"]
    server = (coded["decode_ns"] + times["tail_ns"]) * load
    milliseconds: Floats = (device + uplink + profile["base_network_ns"] + server) / 1e6
    return milliseconds


def best_of(found: dict[str, Floats]) -> tuple[list[str], Floats]:
    """The fastest split at each rate, and its latency."""
    names = list(found)
    stack = np.stack([found[name] for name in names])
    return [names[i] for i in stack.argmin(0)], stack.min(0)


class Stretch(NamedTuple):
    """One split is the fastest from one rate of the grid to another, both included."""

    split: str
    low_bps: int
    high_bps: int


def stretches(best: Sequence[str], rates_bps: Sequence[int]) -> list[Stretch]:
    """Where each split is the fastest along the rates; a crossover lies between two of them."""
    found: list[Stretch] = []
    for split, rate in zip(best, rates_bps, strict=True):
        if found and found[-1].split == split:
            found[-1] = found[-1]._replace(high_bps=rate)
        else:
            found.append(Stretch(split, rate, rate))
    return found


def shares(sweep: Sweep, variant: Variant, load: float = 1.0) -> dict[str, Any]:
    """Over all rates × batches: how often each kind is fastest, and what splitting gains there.

    ``gain_median`` and ``gain_max`` are of the best split over the better end, in cells where a
    split beats both; None where none does.
    """
    kinds, gains = [], []
    for batch in sweep.batches:
        found = latencies(sweep, variant, batch, sweep.rates_bps, load)
        best, _ = best_of(found)
        ends = np.min([found[end] for end in (LOCAL, OFFLOAD) if end in found], axis=0)
        inner = [times for split, times in found.items() if split not in (LOCAL, OFFLOAD)]
        kinds += [split if split in (LOCAL, OFFLOAD) else "split" for split in best]
        if inner:
            gain = 1 - np.min(inner, axis=0) / ends
            gains += list(gain[gain > 0])
    return {
        "accounting": variant.label,
        **{f"{kind}_share": kinds.count(kind) / len(kinds) for kind in (LOCAL, "split", OFFLOAD)},
        "gain_median": float(np.median(gains)) if gains else None,
        "gain_max": float(np.max(gains)) if gains else None,
        "cells": len(kinds),
    }


def gain_map(sweep: Sweep, variant: Variant, static: str) -> Floats:
    """``(batches, rates)``: one static choice's latency over the best choice's, from 1 up."""
    rows = []
    for batch in sweep.batches:
        found = latencies(sweep, variant, batch, sweep.rates_bps)
        rows.append(found[static] / best_of(found)[1])
    return np.stack(rows)


def best_static(sweep: Sweep, variant: Variant) -> str:
    """The one choice with the least mean latency over all rates × batches of the grid."""
    means: dict[str, list[float]] = {}
    for batch in sweep.batches:
        for split, times in latencies(sweep, variant, batch, sweep.rates_bps).items():
            means.setdefault(split, []).append(float(times.mean()))
    return min(means, key=lambda split: sum(means[split]))


def off(row: Document, against: str) -> float | None:
    """``measured / predicted − 1`` of one candidate of a cell; None where either is missing.

    ``against`` is ``predicted_ns``, from the profile, or ``retimed_ns``: the formula with the
    computing times of the cell's own queries, so that hosts that are faster or slower than when
    profiled count no more (sweeps of earlier releases have none).
    """
    if row["measured_ns"] is None or not row.get(against):
        return None
    return float(row["measured_ns"] / row[against] - 1)


def errors(sweep: Sweep, batch: int | None = None, against: str = "predicted_ns") -> list[float]:
    """How far every candidate of every cell is :func:`off`, or those of one batch size."""
    return [
        error
        for cell in sweep.cells
        for row in cell["candidates"].values()
        if batch in (None, cell["batch"]) and (error := off(row, against)) is not None
    ]
