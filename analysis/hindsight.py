"""What each choice cost, judged afterwards: by the rates that were set and the load that was.

The same query's time is computed for every candidate, from its device's median heads and tails, the
rates set from then on, and the server's median wait and slowdown under that load. So a choice
is compared with the best one at its own moment, and a fast or slow minute of the machine, which
two runs never share, is left out. The gap is what the policy's estimates cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.dataset import Dataset, Run
from analysis.matrix import scenario_of
from analysis.metrics import by_policy
from analysis.replay import Floats, RateSteps, of_each_device, rate_steps, wire_bits
from testbed.model.table import LOCAL

_KEYS = ["load", "level"]
_NEEDED = (
    *("run_id", "device", "query", "link", "trial", "load", "status", "split", "t_s", "e2e_ns"),
    *("decide_ns", "head_ns", "encode_ns", "decode_ns", "tail_ns", "server_wait_ns", "bytes_up"),
)


@dataclass(frozen=True)
class Costs:
    """One candidate's payload bytes and its times in ns: the campaign's medians."""

    head_ns: float
    encode_ns: float
    server_ns: float
    bytes_up: int


def hindsight(data: Dataset, queries: pd.DataFrame) -> pd.DataFrame:
    """Measured queries with ``chosen_ns``, ``least_ns``, and ``best``, the split of the least.

    Of their other columns only those that tables and figures need. Empty without a profile, which
    names the candidates. Queries of policies that choose and of those that do not are judged alike.
    """
    chosen = (queries["kind"] == "measured") & (queries["status"] == "ok")
    chosen &= queries["split"].isin(list(_profiled(data)))
    done = queries[[*_NEEDED, "policy"]][chosen].reset_index(drop=True)
    if not len(done):
        return done.assign(chosen_ns=[], least_ns=[], best=[])
    costs = {
        str(device): {
            split: _costs(rows, split, found)
            for split, found in _profiled(data, str(device)).items()
        }
        for device, rows in done.groupby("device", observed=True)
    }
    runs = {run.run_id: run for run in data.runs}
    done["level"] = _levels(data, done)
    state = _server(done, costs).reindex(pd.MultiIndex.from_frame(done[_KEYS]))
    found = pd.DataFrame(
        {
            "start_s": done["t_s"] + done["decide_ns"] / 1e9,
            "wait_ns": state["server_wait_ns"].fillna(0).to_numpy(),
            "slow": state["slow"].fillna(1).to_numpy(),
        }
    )
    chosen_ns, least_ns = np.empty(len(done)), np.empty(len(done))
    best = np.empty(len(done), dtype=object)
    for run_id, device, own in of_each_device(done):
        cost = costs[device]
        splits = list(cost)
        times_ns = _times_ns(data, runs[run_id], device, found.iloc[own], cost)
        at = pd.Index(splits).get_indexer(pd.Index(done["split"].iloc[own]))
        chosen_ns[own] = times_ns[np.arange(len(own)), at]
        least_ns[own] = np.fmin.reduce(times_ns, axis=1)
        best[own] = np.asarray(splits, dtype=object)[times_ns.argmin(axis=1)]
    return done.assign(chosen_ns=chosen_ns, least_ns=least_ns, best=best)


def _profiled(data: Dataset, device: str = "") -> Mapping[str, Mapping[str, float]]:
    """The candidates as profiled on a device; devices that are alike share one profile."""
    profile = data.profile or {}
    own: dict[str, Any] = profile.get("devices", {}).get(device, profile)
    candidates: Mapping[str, Mapping[str, float]] = own.get("candidates", {})
    return candidates


def _costs(done: pd.DataFrame, split: str, profiled: Mapping[str, float]) -> Costs:
    own = done[(done["split"] == split) & (done["load"] == "none")]
    own = own if len(own) else done[done["split"] == split]

    def middle(name: str) -> float:
        found = own[name].median()
        return float(profiled[name] if np.isnan(found) else found)

    server_ns = middle("decode_ns") + middle("tail_ns") if split != LOCAL else 0.0
    encode_ns = middle("encode_ns")
    return Costs(middle("head_ns"), encode_ns, server_ns, int(profiled["bytes_up"]))


def _levels(data: Dataset, done: pd.DataFrame) -> Floats:
    """The level that was set at each query: a record tells of the interval that it ends."""
    found, t_s = np.zeros(len(done)), done["t_s"].to_numpy()
    own = done.groupby("run_id", observed=True).indices
    timed = data.load.dropna(subset=["t_s"]).sort_values("t_s")
    for run_id, told in timed.groupby("run_id", observed=True):
        places = own.get(run_id, np.empty(0, dtype=int))
        level = told["target"].fillna(told["clients"]).to_numpy(dtype=float)
        index = np.searchsorted(told["t_s"].to_numpy(), t_s[places])
        found[places] = level[np.minimum(index, len(level) - 1)]
    return found


def _server(done: pd.DataFrame, costs: Mapping[str, Mapping[str, Costs]]) -> pd.DataFrame:
    """Median wait and slowdown of the server under each load and level."""
    crossed = done[done["bytes_up"] > 0]
    usual_ns = np.full(len(crossed), np.nan)
    for device, found in costs.items():
        own = np.asarray(crossed["device"] == device)
        of_split = {split: cost.server_ns for split, cost in found.items()}
        usual_ns[own] = crossed["split"][own].map(of_split).astype(float)
    slow = (crossed["tail_ns"] + crossed["decode_ns"]) / usual_ns
    return crossed.assign(slow=slow).groupby(_KEYS)[["server_wait_ns", "slow"]].median()


def _times_ns(
    data: Dataset, run: Run, device: str, rows: pd.DataFrame, costs: Mapping[str, Costs]
) -> NDArray[np.float64]:
    """What each of a device's queries in a run would have taken, ``(queries, candidates)``.

    ``rows`` has the query's ``start_s`` and the server's ``wait_ns`` and ``slow`` at that time.
    """
    start_s, wait_ns, slow = (rows[name].to_numpy() for name in ("start_s", "wait_ns", "slow"))
    up = rate_steps(data, run, run.uplink_of(device))
    beyond_ns = data.base_network_ns + data.delay_ns(run, device)
    times_ns = np.empty((len(rows), len(costs)))
    for place, (split, found) in enumerate(costs.items()):
        device_ns = found.head_ns + found.encode_ns
        times_ns[:, place] = device_ns
        if split != LOCAL:
            transfer_ns = _transfer_ns(up, start_s + device_ns / 1e9, found.bytes_up)
            times_ns[:, place] += transfer_ns + beyond_ns + wait_ns + found.server_ns * slow
    return times_ns


def _transfer_ns(up: RateSteps, sent_s: Floats, payload_bytes: int) -> Floats:
    bits = wire_bits(np.full(len(up.bps), float(payload_bytes)), up.bps)
    return np.asarray((up.finish_s(sent_s, bits[up.place(sent_s)]) - sent_s) * 1e9)


def choice_costs(judged: pd.DataFrame) -> pd.DataFrame:
    """Per policy: n, share of choices that were not the best, and what they cost a query."""
    return pd.DataFrame(
        [{"policy": policy, **_figures(rows)} for policy, rows in by_policy(judged)]
    )


def _figures(rows: pd.DataFrame) -> dict[str, float]:
    cost_ns = rows["chosen_ns"] - rows["least_ns"]
    return {
        "n": len(rows),
        "otherwise_share": float((rows["split"] != rows["best"]).mean()),
        "cost_ms": float(cost_ns.mean()) / 1e6,
        "cost_share": float(cost_ns.sum() / rows["least_ns"].sum()),
    }


def costs_by_trial(judged: pd.DataFrame) -> dict[tuple[str, str, int], float]:
    """(scenario, policy, trial) → the choices' cost as a share of the best choices' time."""
    return {
        (scenario_of(str(link), str(load)), str(policy), int(float(str(trial)))): _figures(rows)[
            "cost_share"
        ]
        for (link, load, policy, trial), rows in judged.groupby(["link", "load", "policy", "trial"])
    }
