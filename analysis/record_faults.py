"""What is wrong with a run's records: numbers that lack, times that go back, counts that differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analysis.documents import Document
from analysis.streams import schema

# What is read of each stream to judge it.
RECORDS = {
    "queries": schema(text="run_id device kind status", whole="query t_due_ns t_start_ns e2e_ns"),
    "link": schema(text="direction", whole="t_planned_ns t_applied_ns t_ns"),
    "load": schema(whole="t_ns"),
    "server": schema(text="event", whole="t_ns"),
}


def record_faults(stream: str, table: pa.Table, manifest: Document) -> Iterator[str]:
    """One line for everything that is wrong with a stream's records, read as :data:`RECORDS` says.

    ``manifest`` tells how many queries each device says were due; empty where there is none.
    """
    if stream == "queries":
        yield from _query_faults(table, manifest)
    else:
        yield from _time_faults(stream, table)


def _query_faults(table: pa.Table, manifest: Document) -> Iterator[str]:
    for column in RECORDS["queries"].names:
        if table[column].null_count:
            yield f"{table[column].null_count} records without {column}"
            return
    query, due_ns, e2e_ns = (table[name].to_numpy() for name in ("query", "t_due_ns", "e2e_ns"))
    measured = pc.equal(table["kind"], "measured").to_numpy()
    devices = pc.unique(table["device"]).to_pylist()
    for device in devices:
        where = f"{device}: " if len(devices) > 1 else ""
        own = pc.equal(table["device"], device).to_numpy()
        order = np.argsort(query[own])
        if not np.array_equal(query[own][order], np.arange(len(order))):
            yield f"{where}queries are missing or double: expected each number once from 0 on"
        if (np.diff(due_ns[own][order][measured[own][order]]) < 0).any():
            yield f"{where}t_due_ns goes back in time"
    told = [done["queries"] for role, done in manifest.items() if _is_device(role, done)]
    due = sum(number for number in told if isinstance(number, int))
    if told and due != measured.sum():
        yield f"{due} queries were due, {measured.sum()} are recorded"
    if (e2e_ns[measured] < 0).any():
        yield "e2e_ns: negative durations"


def _is_device(role: str, done: Any) -> bool:
    named = role == "device" or role.startswith("device-")
    return named and isinstance(done, dict) and "queries" in done


def _time_faults(stream: str, table: pa.Table) -> Iterator[str]:
    if stream != "link":
        groups = [("t_ns", table)]
    else:
        sides = [
            table.filter(pc.equal(table["direction"], s))
            for s in pc.unique(table["direction"]).to_pylist()
        ]
        groups = [(column, side) for side in sides for column in ("t_planned_ns", "t_applied_ns")]
    for column, rows in groups:
        if (np.diff(rows[column].drop_null().to_numpy()) < 0).any():
            yield f"{column} goes back in time"
