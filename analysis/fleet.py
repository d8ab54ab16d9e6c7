"""Several devices on one link and one server: what each got, and how fairly. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis import metrics
from analysis.dataset import Dataset
from analysis.formats import number
from analysis.policies import ordered_policies, policy_label
from analysis.tables import POLICY, Table, count, num, number_range, percentile, share, text

_NS = 1e9


def devices_of(data: Dataset) -> list[str]:
    """The hosts of the devices that measured, by name."""
    return sorted(metrics.measured(data.queries)["device"].unique())


def jain_index(values: np.ndarray) -> float:
    """``(Σx)² / (n·Σx²)``: 1 where all are equal, 1/n where one has everything.

    Jain, Chiu, Hawe, A Quantitative Measure of Fairness (DEC TR-301, 1984). NaN for no values.
    """
    squares = float((values**2).sum())
    return float(values.sum()) ** 2 / (len(values) * squares) if squares else float("nan")


def _conditions(queries: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Each link, load and policy with its measured queries, all trials together."""
    due = metrics.measured(queries)
    for (link, load), rows in due.groupby(["link", "load"], sort=True):
        for policy in ordered_policies(rows["policy"].unique()):
            yield (
                {"link": link, "load": load, "policy": policy},
                rows[rows["policy"] == policy],
            )


def _span_s(rows: pd.DataFrame) -> float:
    """How long the devices asked, over all trials, in seconds."""
    ends = rows["t_s"] + rows["e2e_ns"] / _NS
    trials = rows.assign(end_s=ends).groupby("trial")
    return float((trials["end_s"].max() - trials["t_s"].min()).sum())


def _own_uplinks(data: Dataset) -> dict[str, str]:
    """Each device's uplink by name; nothing where all share one."""
    run = next((run for run in data.runs if run.behind), None)
    return {device: run.uplink_of(device) for device in run.behind} if run else {}


def per_device(data: Dataset, queries: pd.DataFrame) -> pd.DataFrame:
    """One row a condition, policy and device: what it ran, n, rate of answers, latency."""
    fleets: dict[str, dict[str, str]] = data.experiment.get("fleets", {})
    links = _own_uplinks(data)
    rows = []
    for condition, due in _conditions(queries):
        own = fleets.get(condition["policy"].removeprefix("fleet:"), {})
        for device, mine in due.groupby("device", sort=True):
            (told,) = metrics.latency(mine).to_dict("records")
            rows.append(
                {
                    **condition,
                    "device": device,
                    **({"direction": links[str(device)]} if links else {}),
                    "own_policy": own.get(str(device), condition["policy"]),
                    **{str(k): v for k, v in told.items() if k != "policy"},
                    "answers_per_s": told["n"] / _span_s(due),
                }
            )
    return pd.DataFrame(rows)


def fairness(data: Dataset, queries: pd.DataFrame) -> pd.DataFrame:
    """One row a condition and policy: the fleet's rate, its fairness, how busy the server was.

    ``server_share`` is decoding and tails, of all devices, over the time that they asked.
    """
    each = per_device(data, queries)
    rows = []
    for condition, due in _conditions(queries):
        mine = each[(each[list(condition)] == pd.Series(condition)).all(axis=1)]
        busy_s = float(due[["decode_ns", "tail_ns"]].fillna(0).to_numpy().sum()) / _NS
        remote = due[due["bytes_up"] > 0]
        rows.append(
            {
                **condition,
                "devices": len(mine),
                "answers_per_s": float(mine["answers_per_s"].sum()),
                "slowest_ms": float(mine["mean_ms"].max()),
                "fastest_ms": float(mine["mean_ms"].min()),
                "fairness_of_rates": jain_index(mine["answers_per_s"].to_numpy()),
                "fairness_of_latency": jain_index(mine["mean_ms"].to_numpy()),
                "server_share": busy_s / _span_s(due),
                "server_wait_ms": float(remote["server_wait_ns"].mean()) / 1e6,
            }
        )
    return pd.DataFrame(rows)


def fleet_tables(data: Dataset, queries: pd.DataFrame) -> list[Table]:
    """The fleet's tables; none where there is one device."""
    if len(devices_of(data)) < 2:
        return []
    condition = (("link", text("link")), ("load", text("load")), POLICY)
    return [
        Table(
            "fleet",
            "The fleet: what the devices got together",
            "Fairness is Jain's index: 1 where all devices fare alike, one over their number where "
            "one has everything. The server is busy while it decodes and runs tails.",
            fairness(data, queries),
            (
                *condition,
                ("answers per s", num("answers_per_s")),
                ("fastest mean ms", num("fastest_ms")),
                ("slowest mean ms", num("slowest_ms")),
                ("fairness of rates", lambda row: number(row["fairness_of_rates"])),
                ("of latency", lambda row: number(row["fairness_of_latency"])),
                ("server busy", share("server_share")),
                ("wait for it ms", num("server_wait_ms")),
            ),
        ),
        Table(
            "fleet_devices",
            "The fleet: each device",
            "In brackets: 95 % intervals by moving-block bootstrap within each device's queries.",
            per_device(data, queries),
            (
                *condition,
                ("device", text("device")),
                *((("its uplink", text("direction")),) if _own_uplinks(data) else ()),
                ("its policy", lambda row: policy_label(row["own_policy"])),
                ("n", count("n")),
                ("answers per s", num("answers_per_s")),
                ("mean ms", number_range("mean_ms")),
                percentile(50),
                percentile(95),
            ),
        ),
    ]
