"""What a reader must know before believing a figure, each doubt with its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from analysis.audit import proof_faults
from analysis.bootstrap import FEWEST
from analysis.dataset import Dataset
from analysis.drift import host_drift, order_effect
from analysis.fidelity import measured_by_run
from analysis.metrics import measured
from analysis.policies import policy_label, split_label
from testbed.encodings import parse_features, parse_input
from testbed.model.table import OFFLOAD

# Beyond this a transfer did not meet the rate that was set, whatever the roles reported.
FIDELITY_BOUND = 0.05
FIDELITY_GRAVE = 0.20
_GROWING_SHARE = 0.5


class Doubt(NamedTuple):
    """One thing that speaks against the figures; ``grave`` ones make them not to be trusted."""

    text: str
    grave: bool


def doubts(data: Dataset, queries: pd.DataFrame, transfers: pd.DataFrame) -> list[Doubt]:
    """Everything that speaks against the figures, the grave first; empty where nothing does."""
    shared = _shared(data, queries)
    grave = (
        _campaign_doubts(data),
        _run_doubts(data),
        _sample_doubts(data, queries),
        _transfer_doubts(transfers, FIDELITY_GRAVE, float("inf"), shared=shared),
        _result_doubts(data, grave=True),
        order_effect(queries),
    )
    notes = (
        _transfer_doubts(transfers, FIDELITY_BOUND, FIDELITY_GRAVE, shared=shared),
        _query_doubts(queries),
        _overload_doubts(data),
        _result_doubts(data, grave=False),
        _trace_doubts(data),
        _axis_doubts(data),
        _host_doubts(data),
        host_drift(data),
    )
    return [
        Doubt(text, serious)
        for group, serious in ((grave, True), (notes, False))
        for found in group
        for text in found
    ]


def _sample_doubts(data: Dataset, queries: pd.DataFrame) -> Iterator[str]:
    counts = measured_by_run(queries)
    few = {r.run_id: counts[r.run_id] for r in data.runs if r.state == "complete"}
    if told := [f"{run_id} ({n})" for run_id, n in few.items() if n < FEWEST]:
        yield f"Fewer than {FEWEST} queries, too few for an interval, in {_some(told)}."


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


def _shared(data: Dataset, queries: pd.DataFrame) -> bool:
    """Whether devices share a link, so that their transfers wait for each other's."""
    links = min((len(run.devices_of_links) for run in data.runs), default=1)
    return bool(queries["device"].nunique() > links)


def _transfer_doubts(
    transfers: pd.DataFrame, low: float, high: float, *, shared: bool
) -> Iterator[str]:
    for row in transfers.to_dict("records"):
        off = row["median_ratio"] - 1
        if shared and off > 0:
            continue  # each of them may have half the rate, and the link is as it was set
        if row["n"] >= 10 and low < abs(off) <= high:
            yield (
                f"{row['link']}, {policy_label(row['policy'])}: the median transfer took "
                f"{abs(off):.0%} {'more' if off > 0 else 'less'} than the set rates allow for."
            )


def _result_doubts(data: Dataset, *, grave: bool) -> Iterator[str]:
    """What crossed and came back as something else; that a coarse encoding loses is no fault."""
    for split, found in (data.verify or {}).get("splits", {}).items():
        pixels, name = split == OFFLOAD, data.feature_encoding
        code = parse_input(data.pixel_encoding) if pixels else parse_features(name)
        if code.coarse and not grave and found.get("top1_share", 1) < 1:
            yield (
                f"{split_label(split).capitalize()}, {code.name}: {1 - found['top1_share']:.1%} of "
                f"{found['images']} images change their class."
            )
        if not grave:
            continue
        wrong = [] if found["digest"] else ["the bytes received are not the bytes sent"]
        if not found["top1"] and not code.coarse:
            wrong.append(f"another class wins (outputs differ by up to {found['max_abs']:.3g})")
        if wrong:
            told = " and ".join(wrong)
            yield f"Split {split} does not give the whole model's result over the wire: {told}."


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


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
