"""Set rate, throughput, estimate, chosen split and latency over the trace, a row a policy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.dataset import Dataset, Run
from analysis.figures.marks import mark_log
from analysis.figures.style import GREY, legible, new_figure
from analysis.metrics import counted, of_devices
from analysis.policies import ordered_policies, ordered_splits, policy_label, split_label
from analysis.recovery import outages_of
from analysis.replay import rate_steps
from testbed.framing import LINK_FRAME_BYTES, MTU_BYTES

_ROW_IN = 1.15
_MARKS = 4  # of a logarithmic axis of one row
# No policy has a grey, so rate, throughput and estimate are never taken for one.
_CARRIED = "#CDD3D8"
_OUTAGE = "#FFF1DC"
_NEEDED = ("run_id", "device", "query", "split", "status", "t_s", "e2e_ns", "rate_est_bps")
# Stripes at the foot of the latencies: (from, height) as shares of the axis.
_CHOSEN_BAND, _BEST_BAND = (0.0, 0.07), (0.09, 0.035)

_OUTAGE_KEY = Patch(color=_OUTAGE, label="outage")
_FALLBACK_KEY = Line2D([], [], color="black", marker="x", ms=4, linestyle="", label="fallback")


def draw_timeline(
    data: Dataset,
    queries: pd.DataFrame,
    judged: pd.DataFrame,
    runs: list[Run],
    colours: dict[str, str],
) -> Figure:
    """One row a policy: rates on the left, latency on the right, coloured by the split chosen.

    ``runs`` holds one run a policy (one trial); times are seconds since the device began.
    ``judged`` tells the best split of each moment (:func:`analysis.hindsight.hindsight`).
    """
    by_policy = {run.policy: run for run in runs}
    policies = ordered_policies(by_policy)
    done = counted(queries, *_NEEDED)
    figure = new_figure(_ROW_IN * len(policies) + 1.1)
    grid = figure.subplots(len(policies), 2, sharex=True, sharey="col", squeeze=False)
    # Set before anything is drawn: no artist then asks for the limits that would hold it.
    longest_s = max(run.duration_s for run in runs)
    grid[0, 0].set_xlim(0, longest_s)
    _scale(grid[0, 0], _rates_seen(data, runs))
    _scale(grid[0, 1], done[done["run_id"].isin([r.run_id for r in runs])]["e2e_ns"] / 1e6)
    for (left, right), policy in zip(grid, policies, strict=True):
        run = by_policy[policy]
        rows = done[done["run_id"] == run.run_id].sort_values("t_s")
        _rates(left, data, run, rows)
        _latency(right, rows, colours)
        afterwards = judged[judged["run_id"] == run.run_id].sort_values("t_s")
        _band(right, afterwards, "best", colours, _BEST_BAND)
        for begun_s, length_s in outages_of(run, run.first_device):
            for axes in (left, right):
                axes.axvspan(begun_s, begun_s + length_s, color=_OUTAGE, zorder=0, linewidth=0)
        left.set_ylabel(policy_label(policy), color=legible(colours[policy]), fontweight="bold")
    for left, right in grid[:1]:
        of = f" of {runs[0].first_device}" if runs[0].first_device else ""
        left.set_title(f"uplink{of}, Mbit/s")
        devices = sorted(done["device"].unique())
        whose = f"split of {devices[0]}" if len(devices) > 1 else "split chosen"
        right.set_title(f"latency, ms (bands: {whose}, best above)")
    for axes in grid[-1]:
        axes.set_xlabel("seconds since the run began")
    more: list[Artist] = (
        [_OUTAGE_KEY] if any(outages_of(run, run.first_device) for run in runs) else []
    )
    more += [_FALLBACK_KEY] if (done["status"] == "fallback").any() else []
    _legend(
        figure, ordered_splits([*done["split"].unique(), *judged["best"].unique()]), colours, more
    )
    return figure


def _rates_seen(data: Dataset, runs: list[Run]) -> pd.Series:
    bps = np.concatenate(
        [rate_steps(data, run, run.uplink_of(run.first_device)).bps for run in runs]
    )
    return pd.Series(bps / 1e6)


def _scale(axes: Axes, values: pd.Series) -> None:
    values = values[values > 0]
    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    if high > 8 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.9, high * 1.6)
        mark_log(axes.yaxis, _MARKS)
    else:
        axes.set_ylim(0, high * 1.2)


def _rates_set(data: Dataset, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Moments in s and the uplink's rate in Mbit/s from each on."""
    steps = rate_steps(data, run, run.uplink_of(run.first_device))
    inside = (steps.t_s > 0) & (steps.t_s < run.duration_s)
    times = np.concatenate([[0.0], steps.t_s[inside], [run.duration_s]])
    return times, steps.at(times) / 1e6


def _throughput(data: Dataset, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Moments of the uplink's samples in s, and the Mbit/s that were carried between them."""
    side = run.uplink_of(run.first_device)
    samples = data.samples[
        (data.samples["run_id"] == run.run_id) & (data.samples["direction"] == side)
    ].sort_values("t_s")
    # The class counts link headers; rates count IP bytes.
    carried = samples["bytes"].diff() * MTU_BYTES / LINK_FRAME_BYTES * 8e-6
    return samples["t_s"].to_numpy(), (carried / samples["t_s"].diff()).to_numpy()[1:]


def timeline_data(
    data: Dataset, queries: pd.DataFrame, judged: pd.DataFrame, runs: list[Run]
) -> pd.DataFrame:
    """What :func:`draw_timeline` shows: ``shows`` tells rate set, throughput and queries apart."""
    done, parts = counted(queries, *_NEEDED), []
    for run in runs:
        rows = done[done["run_id"] == run.run_id].sort_values("t_s")
        best = judged.loc[judged["run_id"] == run.run_id, ["device", "query", "best"]]
        rows = rows.astype({"device": str}).merge(best.astype({"device": str}), how="left")
        asked = pd.DataFrame(
            {
                "t_s": rows["t_s"],
                "mbps": rows["rate_est_bps"] / 1e6,
                "device": rows["device"],
                "split": rows["split"].astype(str),
                "best": rows["best"],
                "status": rows["status"].astype(str),
                "e2e_ms": rows["e2e_ns"] / 1e6,
            }
        )
        for shows, frame in (
            (
                "rate set",
                pd.DataFrame(dict(zip(("t_s", "mbps"), _rates_set(data, run), strict=True))),
            ),
            ("throughput", _from_samples(*_throughput(data, run))),
            ("query, rate estimated", asked),
        ):
            frame.insert(0, "policy", run.policy)
            frame.insert(1, "shows", shows)
            parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def _from_samples(edges: np.ndarray, mbps: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"t_s": edges[: len(mbps)], "mbps": mbps})


def _rates(axes: Axes, data: Dataset, run: Run, rows: pd.DataFrame) -> None:
    times, mbps = _rates_set(data, run)
    axes.step(times, mbps, where="post", color=GREY, linewidth=1.4)
    edges, mbps = _throughput(data, run)
    if len(edges) > 1:
        axes.stairs(mbps, edges, fill=True, color=_CARRIED)
    own = run.devices_of_links[run.behind.get(run.first_device, "")]  # of the link that is drawn
    told = of_devices(rows.dropna(subset=["rate_est_bps"]), own)
    if len(told):
        axes.plot(
            told["t_s"], told["rate_est_bps"] / 1e6, ".", color="black", ms=3.5, rasterized=True
        )


def _latency(axes: Axes, rows: pd.DataFrame, colours: dict[str, str]) -> None:
    for split, part in rows.groupby("split"):
        colour = colours[str(split)]
        for fell, mark, size in ((False, ".", 4.5), (True, "x", 4.0)):
            some = part[(part["status"] == "fallback") == fell]
            axes.plot(
                some["t_s"], some["e2e_ns"] / 1e6, mark, color=colour, ms=size, rasterized=True
            )
    _band(axes, rows, "split", colours, _CHOSEN_BAND)


def _band(
    axes: Axes,
    rows: pd.DataFrame,
    column: str,
    colours: dict[str, str],
    place: tuple[float, float],
) -> None:
    """A stripe along the axis, coloured by the split named in a column."""
    # Of several devices the first: their choices would lie on each other.
    rows = rows[rows["device"] == min(rows["device"].unique(), default="")]
    rows = rows.dropna(subset=[column])
    for split, spans in _spans(rows, column).items():
        axes.broken_barh(
            spans,
            place,
            transform=axes.get_xaxis_transform(),
            facecolors=colours[split],
            linewidth=0,
        )


def _spans(rows: pd.DataFrame, column: str) -> dict[str, list[tuple[float, float]]]:
    """Of each split, start and length of each stretch in which it was named row after row."""
    named = rows[column].to_numpy(dtype=object)
    begun_s = rows["t_s"].to_numpy()
    ended_s = begun_s + rows["e2e_ns"].to_numpy() / 1e9
    first = [n for n in range(len(named)) if n == 0 or named[n] != named[n - 1]]
    spans: dict[str, list[tuple[float, float]]] = {str(split): [] for split in sorted(set(named))}
    for one, after in pairwise([*first, len(named)]):
        start_s = begun_s[one]
        spans[str(named[one])].append((start_s, ended_s[one:after].max() - start_s))
    return spans


def _legend(figure: Figure, splits: list[str], colours: dict[str, str], more: list[Artist]) -> None:
    handles: list[Artist] = [
        Line2D([], [], color=GREY, linewidth=1.4, label="rate set"),
        Patch(color=_CARRIED, label="throughput"),
        Line2D([], [], color="black", marker=".", linestyle="", label="estimate"),
    ]
    handles += [
        Line2D([], [], color=colours[s], marker="s", linestyle="", label=split_label(s))
        for s in splits
    ]
    handles += more
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8))
