"""The profile: what each candidate costs on these hosts, from a run that cycled through them."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median, quantiles
from typing import Any

from testbed.errors import TestbedError
from testbed.framing import serialisation_ns
from testbed.model.table import LOCAL

_PARTS = ("head_ns", "encode_ns", "decode_ns", "tail_ns", "network_ns", "bytes_up", "bytes_down")


def profile_from_records(
    records: Iterable[dict[str, Any]],
    *,
    candidates: Iterable[str],
    up_bps: int,
) -> dict[str, Any]:
    """Medians and interquartile ranges of each candidate, and the base network time.

    The base network time is what a remote query's network time holds beyond serialisation on the
    uplink at the rate set: propagation, the reply, wake-ups, the stack. It is the median over all
    remote queries, and a floor of zero.

    Raises TestbedError naming a candidate without a successful query.
    """
    usable = [r for r in records if r["kind"] == "measured" and r["status"] == "ok"]
    measured: dict[str, Any] = {}
    bases: list[float] = []
    for split in candidates:
        rows = [r for r in usable if r["split"] == split]
        if not rows:
            raise TestbedError(f"profile: candidate {split} has no successful query; see its run")
        parts = {part: round(median(r[part] for r in rows)) for part in _PARTS}
        spreads = {
            f"{part}_iqr_ns": _iqr([r[f"{part}_ns"] for r in rows]) for part in ("head", "tail")
        }
        measured[split] = {**parts, **spreads, "n": len(rows)}
        if split != LOCAL:
            bases += [r["network_ns"] - serialisation_ns(r["bytes_up"], up_bps) for r in rows]
    return {"base_network_ns": max(0, round(median(bases))), "candidates": measured}


def _iqr(values: list[int]) -> int:
    if len(values) < 2:
        return 0
    low, _, high = quantiles(values, n=4)
    return round(high - low)
