"""How soon the server was used again after each outage of the uplink."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.dataset import Dataset, Run
from analysis.matrix import scenario_of
from analysis.metrics import measured, of_devices
from analysis.policies import split_of
from analysis.tables import POLICY, Table, count, num, text
from testbed.model.table import LOCAL


def recovery(data: Dataset) -> pd.DataFrame:
    """One row a run and outage: what became of the queries due in it, and when one crossed again.

    ``recovery_s`` is from the link's return to the end of the first query that crossed, NaN where
    none did before the next outage or the end. Runs of ``local`` are left out: nothing crosses.
    """
    rows = [row for run in data.runs if split_of(run.policy) != LOCAL for row in _of_run(data, run)]
    return pd.DataFrame(rows)


def outages_of(run: Run, device: str) -> list[tuple[float, float]]:
    """(beginning, length) in seconds of the outages of a device's uplink, in every lap of a run."""
    schedule = run.schedules[run.uplink_of(device)]
    outages = [(t / 1e9, n / 1e9) for t, n in schedule.get("outages", [])]
    if not outages or schedule["end"] != "loop":
        return outages
    lap_s = schedule["duration_ns"] / 1e9
    laps = range(int(run.duration_s // lap_s) + 1)
    again = [(lap * lap_s + begun_s, length_s) for lap in laps for begun_s, length_s in outages]
    return [(begun_s, length_s) for begun_s, length_s in again if begun_s < run.duration_s]


def _of_run(data: Dataset, run: Run) -> Iterator[dict[str, Any]]:
    for devices in run.devices_of_links.values():
        if outages := outages_of(run, devices[0] if devices else ""):
            queries = measured(data.queries[data.queries["run_id"] == run.run_id])
            yield from _of_link(run, outages, of_devices(queries, devices))


def _of_link(
    run: Run, outages: list[tuple[float, float]], queries: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    end_s = queries["t_s"] + (queries["e2e_ns"] + queries["t_due_ns"] - queries["t_start_ns"]) / 1e9
    crossed_s = end_s[(queries["status"] == "ok") & (queries["bytes_up"] > 0)]
    for index, (begun_s, length_s) in enumerate(outages):
        back_s = begun_s + length_s
        last = index + 1 == len(outages)
        until_s = run.duration_s if last else outages[index + 1][0]
        due = queries[(queries["t_s"] >= begun_s) & (queries["t_s"] < back_s)]
        again_s = crossed_s[(crossed_s > back_s) & (crossed_s < until_s)].min()
        yield {
            "scenario": scenario_of(run.link, run.load),
            "policy": run.policy,
            "trial": run.trial,
            "begun_s": begun_s,
            "length_s": length_s,
            "due": len(due),
            "fallback": int((due["status"] == "fallback").sum()),
            "dropped": int((due["status"] == "dropped").sum()),
            "failed": int((due["status"] == "failed").sum()),
            "recovery_s": float(again_s) - back_s,
        }


def recovery_tables(data: Dataset) -> list[Table]:
    """The table of outages; none where the link had none."""
    found = recovery(data)
    if not len(found):
        return []
    return [
        Table(
            "outages",
            "When the link was gone",
            "Queries that began in the outage, and the time from the link's return until one had "
            "crossed it again. A fallback was finished on the device.",
            found,
            (
                ("scenario", text("scenario")),
                POLICY,
                ("trial", count("trial")),
                ("begun s", num("begun_s")),
                ("length s", num("length_s")),
                ("due", count("due")),
                ("fallback", count("fallback")),
                ("dropped", count("dropped")),
                ("failed", count("failed")),
                ("again after s", num("recovery_s")),
            ),
        )
    ]
