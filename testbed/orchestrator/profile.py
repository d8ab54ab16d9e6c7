"""The profile: what each candidate costs on these hosts, from a run that cycled through them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, sqrt
from statistics import median, quantiles
from typing import Any

from testbed.errors import TestbedError
from testbed.framing import serialisation_ns
from testbed.model.table import LOCAL

_PARTS = ("head_ns", "encode_ns", "decode_ns", "tail_ns", "network_ns", "bytes_up", "bytes_down")
_COMPUTING = ("head_ns", "tail_ns")
_Z95 = 1.96


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
        measured[split] = {
            **parts,
            **spreads,
            "interval_share": _finite(interval_share([_computing_ns(r) for r in rows])),
            "n": len(rows),
        }
        if split != LOCAL:
            bases += [r["network_ns"] - serialisation_ns(r["bytes_up"], up_bps) for r in rows]
    base_ns = round(median(bases)) if bases else 0
    return {"base_network_ns": max(0, base_ns), "candidates": measured}


def tails_under_load(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the wait in the server's queue and of the tail, by split that has one."""
    usable = [r for r in records if r["kind"] == "measured" and r["status"] == "ok"]
    found: dict[str, Any] = {}
    for split in dict.fromkeys(r["split"] for r in usable if r["split"] != LOCAL):
        rows = [r for r in usable if r["split"] == split]
        tails = [r["tail_ns"] for r in rows]
        found[split] = {
            "tail_ns": round(median(tails)),
            "tail_iqr_ns": _iqr(tails),
            "wait_ns": round(median(r["server_wait_ns"] for r in rows)),
            "n": len(rows),
        }
    return found


def _iqr(values: list[int]) -> int:
    if len(values) < 2:
        return 0
    low, _, high = quantiles(values, n=4)
    return round(high - low)


def _computing_ns(record: Mapping[str, Any]) -> int:
    return sum(record[part] for part in _COMPUTING)


def _finite(value: float) -> float | None:
    return None if value == inf else round(value, 4)


def interval_share(values: Sequence[int]) -> float:
    """Half the 95 % interval of the median, as a share of the median; inf where too few tell.

    The interval lies between two order statistics, whatever the distribution (binomial, normal
    approximation: ranks ``n/2 ± 1.96·√n/2``; Conover, Practical Nonparametric Statistics, 3.2).
    """
    n = len(values)
    low, high = round(n / 2 - _Z95 * sqrt(n) / 2) - 1, round(n / 2 + _Z95 * sqrt(n) / 2)
    middle = median(values) if values else 0
    if low < 0 or high >= n or middle <= 0:
        return inf
    ordered = sorted(values)
    return (ordered[high] - ordered[low]) / 2 / middle


def widest(profile: Mapping[str, Any]) -> float:
    """The widest interval of any candidate's computing time, as a share of its median."""
    shares = [found["interval_share"] for found in profile["candidates"].values()]
    return max(inf if share is None else share for share in shares)


def drift(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """Computing time of each candidate when measured again, as a ratio to the first time."""
    return {
        split: round(_computing_ns(again) / max(1, _computing_ns(before["candidates"][split])), 4)
        for split, again in after["candidates"].items()
    }
