"""What a reader must know before believing a figure: states, doubts, the link, the clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from analysis.audit import proof_faults
from analysis.bootstrap import FEWEST, needed_for_percentile
from analysis.dataset import Dataset
from analysis.metrics import measured
from analysis.policies import policy_label
from testbed.framing import LINK_FRAME_BYTES, MTU_BYTES, ip_bytes

SIDES = ("uplink", "downlink")
# Beyond this a transfer did not meet the rate that was set, whatever the roles reported.
FIDELITY_BOUND = 0.05
FIDELITY_GRAVE = 0.20
# Repeated runs needed before an order effect can be told from chance, and the chance allowed.
_ORDER_RUNS = 8
_ORDER_P = 0.01
_GROWING_SHARE = 0.5


class Doubt(NamedTuple):
    """One thing that speaks against the figures; ``grave`` ones make them not to be trusted."""

    text: str
    grave: bool


def doubts(data: Dataset, queries: pd.DataFrame, transfers: pd.DataFrame) -> list[Doubt]:
    """Everything that speaks against the figures, the grave first; empty where nothing does."""
    grave = (
        _campaign_doubts(data),
        _run_doubts(data),
        _sample_doubts(data, queries),
        _transfer_doubts(transfers, FIDELITY_GRAVE, float("inf")),
        _result_doubts(data),
        _order_doubts(queries),
    )
    notes = (
        _transfer_doubts(transfers, FIDELITY_BOUND, FIDELITY_GRAVE),
        _query_doubts(queries),
        _overload_doubts(data),
        _trace_doubts(data),
        _axis_doubts(data),
        _host_doubts(data),
    )
    return [
        Doubt(text, serious)
        for group, serious in ((grave, True), (notes, False))
        for found in group
        for text in found
    ]


def _sample_doubts(data: Dataset, queries: pd.DataFrame) -> Iterator[str]:
    counts = _measured_by_run(queries)
    if few := [r.run_id for r in data.runs if r.state == "complete" and counts[r.run_id] < FEWEST]:
        yield f"Fewer than {FEWEST} queries, too few for an interval, in {_some(few)}."


def _order_doubts(queries: pd.DataFrame) -> Iterator[str]:
    """Whether runs got slower or faster as the campaign went on, whatever they ran."""
    needed = ["run_id", "link", "load", "policy", "run_index", "kind", "e2e_ns"]
    done = measured(queries[needed])
    means = done.groupby(["run_id", "link", "load", "policy", "run_index"], observed=True)["e2e_ns"]
    logs = np.log(means.mean()).reset_index()
    cells = logs.groupby(["link", "load", "policy"], observed=True)["e2e_ns"]
    logs["off"] = logs["e2e_ns"] - cells.transform("mean")
    logs = logs[cells.transform("size") > 1]
    if len(logs) < _ORDER_RUNS:
        return
    found = spearmanr(logs["run_index"], logs["off"])
    if found.pvalue < _ORDER_P:
        way = "slower" if found.statistic > 0 else "faster"
        yield (
            f"Runs got {way} in the order they were run (Spearman {found.statistic:.2f}, "
            f"p {found.pvalue:.2g}): something drifted."
        )


def _campaign_doubts(data: Dataset) -> Iterator[str]:
    state = data.campaign.get("state", "complete")
    if state != "complete":
        ended = "it is still running or was killed" if state == "running" else f"it is {state}"
        yield f"The campaign did not end as planned: {ended}."
    begun = {run.run_id for run in data.runs}
    planned = [run["run_id"] for run in data.campaign.get("runs", [])]
    if missing := [run_id for run_id in planned if run_id not in begun]:
        yield f"{len(missing)} of {len(planned)} planned runs were never begun: {_some(missing)}."
    if not (data.root / "plan.json").is_file():  # a whole campaign, and not one of its runs
        yield from (f"The campaign's own files: {fault}." for fault in proof_faults(data.root))
    if data.profile is None:
        yield (
            "There is no profile: the base network time is taken as 0, so transfers look slower "
            "against the set rates than they were."
        )


def _run_doubts(data: Dataset) -> Iterator[str]:
    for run in data.runs:
        if run.state != "complete":
            yield f"{run.run_id} is {run.state}: {'; '.join(run.reasons) or 'no reason was told'}."
        elif run.validity != "valid":
            yield f"{run.run_id} is {run.validity}: {'; '.join(run.reasons)}."
        if run.lines_lost:
            yield f"{run.run_id}: {run.lines_lost} cut last line of its records was left out."
        if run.altered:
            yield f"{run.run_id}: changed since the run wrote it: {_some(run.altered)}."


def _axis_doubts(data: Dataset) -> Iterator[str]:
    if apart := [run.run_id for run in data.runs if not run.axis.shared]:
        yield (
            "Clock offsets are missing, so device and router are set side by side by the start of "
            f"each (milliseconds apart) in {_some(apart)}."
        )


def _trace_doubts(data: Dataset) -> Iterator[str]:
    """Directions that follow a trace of the other one, as the experiment's author chose."""
    told = {
        f"Link {run.link}: {used_as}, though a network's two directions differ."
        for run in data.runs
        for schedule in run.schedules.values()
        if (used_as := schedule.get("as"))
    }
    yield from sorted(told)


def _query_doubts(queries: pd.DataFrame) -> Iterator[str]:
    due = measured(queries[["run_id", "kind", "status"]])
    for run_id, rows in due.groupby("run_id", sort=False):
        for status, told in (
            ("failed", "failed and are not in the latencies, which flatters the policy"),
            ("fallback", "fell back to the device and count with the time they took"),
        ):
            if count := int((rows["status"] == status).sum()):
                yield f"{run_id}: {count} of {len(rows)} queries {told}."


def _overload_doubts(data: Dataset) -> Iterator[str]:
    """Runs whose queries fell due faster than the device was done with them."""
    for run in data.runs:
        told = (run.manifest or {}).get("device", {})
        arrived, left, most = (told.get(k) or 0 for k in ("arrived", "backlog_end", "backlog_most"))
        # A queue that is near its longest when the run ends was still growing.
        if left > max(2, _GROWING_SHARE * most):
            done_s = (arrived - left) / run.duration_s
            yield (
                f"{run.run_id}: the backlog grew: {arrived / run.duration_s:.3g} queries a second "
                f"fell due and {done_s:.3g} were done; {left} of {arrived} never began, and "
                "latencies tell how long the run was."
            )


def _transfer_doubts(transfers: pd.DataFrame, low: float, high: float) -> Iterator[str]:
    for row in transfers.to_dict("records"):
        off = row["median_ratio"] - 1
        if row["n"] >= 10 and low < abs(off) <= high:
            yield (
                f"{row['link']}, {policy_label(row['policy'])}: the median transfer took "
                f"{abs(off):.0%} {'more' if off > 0 else 'less'} than the set rates allow for."
            )


def _result_doubts(data: Dataset) -> Iterator[str]:
    for split, found in (data.verify or {}).get("splits", {}).items():
        if not found["digest"] or not found["top1"]:
            yield f"Split {split} does not give the whole model's result over the wire."


def _host_doubts(data: Dataset) -> Iterator[str]:
    if again := sum(run.get("set_aside") or 0 for run in data.campaign.get("runs", [])):
        yield f"Runs set aside and repeated: {again}; they are in attempts/ and in no figure."
    if any("link-device" in (run.manifest or {}) for run in data.runs):
        yield (
            "No router: the sender's own egress was shaped, where the sender's TCP sees the queue "
            "and holds back, so queueing is hidden."
        )
    if bad := int((data.server["event"] == "bad_frame").sum()):
        yield f"The server turned away {bad} bad frames; server.jsonl has the reasons."
    for host, environment in data.environments.items():
        if reason := (environment.get("cpu_limit") or {}).get("not_applied"):
            yield f"{host}: the CPU limit was not applied: {reason}."


def _measured_by_run(queries: pd.DataFrame) -> Counter[str]:
    of_run = queries["run_id"][queries["kind"] == "measured"]
    return Counter({str(run_id): int(n) for run_id, n in of_run.value_counts().items()})


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def run_table(data: Dataset, queries: pd.DataFrame) -> pd.DataFrame:
    """One row a run: how it ended and what disturbed it."""
    counts = _measured_by_run(queries)
    rows = []
    for run in data.runs:
        device = (run.manifest or {}).get("device", {})
        rows.append(
            {
                "run_id": run.run_id,
                "state": run.state,
                "validity": run.validity,
                "queries": counts[run.run_id],
                "duration_s": run.duration_s,
                "steal_share": device.get("steal_share"),
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
    for link in dict.fromkeys(run.link for run in data.runs):
        for side in SIDES:
            changes, samples = (
                frame[(frame["link"] == link) & (frame["direction"] == side)]
                for frame in (data.changes, data.samples)
            )
            late_ms = changes["late_ns"].dropna() / 1e6
            enough = len(late_ms) >= needed_for_percentile(0.99)
            row: dict[str, Any] = {"link": link, "direction": side, "changes": len(late_ms)}
            row["late_p50_ms"] = float(late_ms.median()) if len(late_ms) else None
            row["late_p99_ms"] = float(late_ms.quantile(0.99)) if enough else None
            row["late_max_ms"] = float(late_ms.max()) if len(late_ms) else None
            carried, offered, drops = _carried(samples, queries, side)
            row["carried_bytes"], row["offered_bytes"] = carried, offered
            row["carried_share"] = carried / offered if offered else None
            row["drops"] = drops
            rows.append(row)
    return pd.DataFrame(rows)


def _carried(samples: pd.DataFrame, queries: pd.DataFrame, side: str) -> tuple[float, float, float]:
    carried = offered = drops = 0.0
    size = "bytes_up" if side == "uplink" else "bytes_down"
    done = queries.loc[queries["status"] == "ok", ["run_id", "send_s", size]]
    for run_id, rows in samples.groupby("run_id"):
        first, last = rows.iloc[0], rows.iloc[-1]
        sent = done[done["run_id"] == run_id]
        inside = sent[(sent["send_s"] >= first["t_s"]) & (sent["send_s"] < last["t_s"])]
        sizes, counts = np.unique(inside[size].to_numpy(), return_counts=True)
        sent_bytes = sum(ip_bytes(int(n)) * int(c) for n, c in zip(sizes, counts, strict=True))
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
