"""How the runs went: their states, the link, the load, the clocks, the results, in tables."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from analysis.bootstrap import needed_for_percentile
from analysis.dataset import Dataset
from analysis.metrics import of_devices
from testbed.framing import LINK_FRAME_BYTES, MTU_BYTES, ip_bytes

SIDES = ("uplink", "downlink")


def measured_by_run(queries: pd.DataFrame) -> Counter[str]:
    """How many queries of each run are measured ones, whatever became of them."""
    of_run = queries["run_id"][queries["kind"] == "measured"]
    return Counter({str(run_id): int(n) for run_id, n in of_run.value_counts().items()})


def run_table(data: Dataset, queries: pd.DataFrame) -> pd.DataFrame:
    """One row a run: how it ended and what disturbed it."""
    counts = measured_by_run(queries)
    rows = []
    for run in data.runs:
        device = (run.manifest or {}).get("device", {})
        others = (run.manifest or {}).get("others_share", {})
        rows.append(
            {
                "run_id": run.run_id,
                "state": run.state,
                "validity": run.validity,
                "queries": counts[run.run_id],
                "duration_s": run.duration_s,
                "steal_share": device.get("steal_share"),
                "others_share": max(others.values(), default=None),
                "page_faults": device.get("faults"),
            }
        )
    return pd.DataFrame(rows)


def link_table(data: Dataset, queries: pd.DataFrame) -> pd.DataFrame:
    """Per link and direction: lateness of the rate changes, and what the class carried.

    ``carried_share`` is the class's bytes between its first and last sample ÷ framed bytes of the
    payloads sent between them, all runs together: acknowledgements make it a little more than 1.
    """
    rows = []
    for link, run in {run.link: run for run in data.runs}.items():
        for suffix, devices in run.devices_of_links.items():
            own = of_devices(queries, devices)
            rows += [_of_direction(data, own, link, side, side + suffix) for side in SIDES]
    return pd.DataFrame(rows)


def _of_direction(
    data: Dataset, queries: pd.DataFrame, link: str, side: str, direction: str
) -> dict[str, Any]:
    changes, samples = (
        frame[(frame["link"] == link) & (frame["direction"] == direction)]
        for frame in (data.changes, data.samples)
    )
    late_ms = changes["late_ns"].dropna() / 1e6
    enough = len(late_ms) >= needed_for_percentile(0.99)
    carried, offered, drops = _carried(samples, queries, side)
    return {
        "link": link,
        "direction": direction,
        "changes": len(late_ms),
        "late_p50_ms": float(late_ms.median()) if len(late_ms) else None,
        "late_p99_ms": float(late_ms.quantile(0.99)) if enough else None,
        "late_max_ms": float(late_ms.max()) if len(late_ms) else None,
        "carried_bytes": carried,
        "offered_bytes": offered,
        "carried_share": carried / offered if offered else None,
        "drops": drops,
    }


def _carried(samples: pd.DataFrame, queries: pd.DataFrame, side: str) -> tuple[float, float, float]:
    carried = offered = drops = 0.0
    size = "bytes_up" if side == "uplink" else "bytes_down"
    done = queries.loc[queries["status"] == "ok", ["run_id", "send_s", size]]
    send_s, sizes = done["send_s"].to_numpy(), done[size].to_numpy()
    of_run = done.groupby("run_id").indices
    for run_id, rows in samples.groupby("run_id"):
        first, last = rows.iloc[0], rows.iloc[-1]
        own = of_run.get(run_id, np.empty(0, dtype=int))
        inside = own[(send_s[own] >= first["t_s"]) & (send_s[own] < last["t_s"])]
        each, counts = np.unique(sizes[inside], return_counts=True)
        sent_bytes = sum(ip_bytes(int(n)) * int(c) for n, c in zip(each, counts, strict=True))
        framed = sent_bytes * LINK_FRAME_BYTES / MTU_BYTES
        carried += float(last["bytes"] - first["bytes"])
        drops += float(last["drops"] - first["drops"])
        offered += framed
    return carried, offered, drops


def load_table(data: Dataset) -> pd.DataFrame:
    """Per load: what was asked for, what was achieved, queries a second and CPU share.

    ``off`` is the run whose achieved level was furthest from what was asked of it.
    """
    rows = []
    for load, records in data.load.groupby("load", sort=False):
        seconds = float(records["interval_ns"].sum()) / 1e9
        levels = pd.DataFrame(
            {name: records[name] * records["interval_ns"] for name in ("target", "achieved")}
        )
        length_ns = records["interval_ns"].groupby(records["run_id"]).sum()
        by_run = levels.groupby(records["run_id"]).sum(min_count=1).div(length_ns, axis=0)
        rows.append(
            {
                "load": load,
                "n": len(records),
                "runs": len(by_run),
                "clients": float(records["clients"].mean()),
                "level": float(by_run["target"].mean()),
                "achieved": float(by_run["achieved"].mean()),
                "off": float((by_run["achieved"] - by_run["target"]).abs().max()),
                "queries_per_s": float(records["queries"].sum()) / seconds if seconds else None,
                "busy_share": float(records["busy_share"].mean()),
            }
        )
    return pd.DataFrame(rows)


def clock_table(data: Dataset) -> pd.DataFrame:
    """Per host the worst bound and drift of its clock offset over all runs."""
    found: dict[str, list[tuple[float, float]]] = {}
    for run in data.runs:
        for clock in {c.host: c for c in run.axis.clocks.values()}.values():
            found.setdefault(clock.host, []).append((clock.bound_ns, abs(clock.drift_ns)))
    return pd.DataFrame(
        [
            {
                "host": host,
                "bound_us": float(np.max([b for b, _ in pairs])) / 1e3,
                "drift_us": float(np.max([d for _, d in pairs])) / 1e3,
            }
            for host, pairs in found.items()
        ]
    )


def verify_table(data: Dataset) -> pd.DataFrame:
    """Per split: bytes as sent, result as the whole model's, top-1 kept."""
    return pd.DataFrame(
        [
            {"split": split, **{key: found[key] for key in ("digest", "equal", "top1", "max_abs")}}
            for split, found in (data.verify or {}).get("splits", {}).items()
        ]
    )
