"""The figures of a report: what each shows, the sentence that says what to see, and its data."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis import metrics
from analysis.dataset import Dataset
from analysis.figures.distribution import draw_distribution
from analysis.figures.fleet import draw_fleet
from analysis.figures.lateness import draw_lateness
from analysis.figures.parts import draw_parts
from analysis.figures.prediction import draw_prediction, predicted
from analysis.figures.style import Drawing
from analysis.figures.timeline import draw_timeline, timeline_data
from analysis.fleet import devices_of
from analysis.interactive import steps


def condition_drawings(
    data: Dataset,
    rows: pd.DataFrame,
    judged: pd.DataFrame,
    colours: dict[str, str],
    condition: tuple[str, str],
) -> Iterator[Drawing]:
    """The figures of one condition, from its queries; none where nothing was measured.

    Args:
        data: the campaign.
        rows: the condition's queries.
        judged: the same as :func:`analysis.hindsight.hindsight` gives them.
        colours: of each split and policy.
        condition: link and load.
    """
    done = metrics.counted(rows, "trial", "device", "e2e_ns")
    if not len(done):
        return
    key = ".".join(condition)
    if len(devices_of(data)) > 1:
        yield Drawing(
            f"fleet.{key}",
            "Each device of the fleet",
            "Lines on top of each other are devices that fare alike; the further apart, the less "
            "fair a policy is.",
            draw_fleet(rows),
            _distribution(done, ["policy", "device"], "e2e_ns"),
        )
    # One trial is shown: the first that has a result, so that every row meets the same trace.
    trial = int(done["trial"].min())
    runs = [r for r in data.runs if (r.link, r.load, r.trial) == (*condition, trial)]
    yield Drawing(
        f"timeline.{key}",
        "The trace, and what each policy made of it",
        f"Trial {trial}: where the rate set falls, latencies that cross the link rise; the band "
        "below them shows the split chosen, the thin one above it the best by the rates set and "
        "the load that was.",
        draw_timeline(data, rows, judged, runs, colours),
        timeline_data(data, rows, judged, runs),
    )
    yield Drawing(
        f"distribution.{key}",
        "Distribution of latency",
        "Further left is faster; a long flat tail to the right is what the slow moments of the "
        "link cost.",
        draw_distribution(rows, colours),
        _distribution(done, ["policy"], "e2e_ns"),
        in_page=False,
    )
    breakdown = metrics.breakdown(rows)
    yield Drawing(
        f"parts.{key}",
        "Where the time goes",
        "Brown is spent on the device, grey on the network, teal on the server; what lies right of "
        "the floor's tick is overhead.",
        draw_parts(breakdown),
        breakdown,
    )
    if len(told := predicted(rows)):
        yield Drawing(
            f"prediction.{key}",
            "Predicted against measured, estimated against set",
            "Points on the line were right; above it, the query took longer than predicted, or the "
            "link was taken for faster than it was.",
            draw_prediction(rows, colours),
            _prediction(told),
        )


def link_drawings(data: Dataset) -> list[Drawing]:
    """The figures of the whole campaign's link; none where no change was timed."""
    late = data.changes.dropna(subset=["late_ns"])
    if not len(late):
        return []
    caption = "The further left, the more exactly the trace was replayed; all runs together."
    shown = _distribution(late, ["direction"], "late_ns")
    figure = draw_lateness(data.changes)
    return [Drawing("lateness", "Lateness of the rate changes", caption, figure, shown)]


def _distribution(rows: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    """Shares and the milliseconds within which they lie, of each group."""
    parts = []
    for names, group in rows.groupby(by, observed=True):
        shares, values = steps(group[column].to_numpy() / 1e6)
        named = dict(zip(by, map(str, names), strict=True))
        parts.append(pd.DataFrame({**named, "share": shares, "within_ms": values}))
    return pd.concat(parts, ignore_index=True)


def _prediction(told: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            **{name: told[name].astype(str) for name in ("policy", "split")},
            "predicted_ms": told["predicted_ns"] / 1e6,
            "measured_ms": told["e2e_ns"] / 1e6,
            "set_mbps": told["up_bps"] / 1e6,
            "estimated_mbps": told["rate_est_bps"] / 1e6,
        }
    )
