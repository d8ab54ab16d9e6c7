"""Joins the record streams of all runs into frames on one time axis.

The streams are put together as Arrow tables and become columns once: run by run, pandas would cost
more than reading the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from analysis.clocks import Axis
from analysis.streams import schema

FACTORS = ("run_id", "link", "load", "policy")
KINDS = ("queries", "changes", "samples", "load", "server")
SAMPLE_COUNTERS = ("bytes", "packets", "drops", "backlog_bytes", "overlimits")

# What is read of each stream; a null becomes NaN (2^53 ns is a hundred days).
STREAMS = {
    "queries": schema(
        text="device kind split encoding status",
        whole="query batch t_due_ns t_start_ns decide_ns head_ns encode_ns send_ns uplink_ns "
        "server_wait_ns decode_ns tail_ns reply_ns e2e_ns bytes_up bytes_down network_ns "
        "span_bytes span_ns steal_ticks wait_est_ns correct",
        real="rate_est_bps load_est predicted_ns",
        truth="late",
    ),
    "link": schema(
        text="direction",
        whole="n t_planned_ns t_applied_ns late_ns took_ns rate_bps class_bps burst_bytes t_ns",
    ).append(
        pa.field(
            "sample",
            pa.struct([(name, pa.int64()) for name in SAMPLE_COUNTERS]),
        )
    ),
    "load": schema(whole="t_ns interval_ns queries", real="clients busy_share target achieved"),
    "server": schema(text="event", whole="t_ns query"),
}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Streams:
    """One run's records as read, the place of its clocks, and the factors of each row."""

    tables: Mapping[str, pa.Table]
    axis: Axis
    index: int
    trial: int
    factors: Mapping[str, str]


def joined(runs: Sequence[Streams]) -> dict[str, pd.DataFrame]:
    """The frames ``queries``, ``changes``, ``samples``, ``load`` and ``server``.

    One row a record, in the order of the runs, with the factors of its run and ``t_s``, seconds
    since the device began to measure in it; durations stay in ns. Text is categorical: rows are
    cut and compared often, and texts are few. ``queries`` also has ``send_s`` (head and encoding
    done).
    """
    tables = {stream: _stacked(stream, runs) for stream in STREAMS}
    link = tables.pop("link")
    sampled = pc.is_valid(link["sample"])
    tables["changes"] = link.filter(pc.invert(sampled)).drop_columns(["t_ns", "sample"])
    kept = link.filter(sampled).select(["direction", "t_ns", "sample", "run"]).flatten()
    names = ["direction", "t_ns", *SAMPLE_COUNTERS, "run"]
    tables["samples"] = kept.rename_columns(names)
    frames = {kind: _columns(tables[kind]) for kind in KINDS}
    _on_axis(frames, [run.axis for run in runs])
    _tell_reply_apart(frames["queries"], frames["server"], [run.axis for run in runs])
    return {kind: _with_factors(frame, runs) for kind, frame in frames.items()}


def _stacked(stream: str, runs: Sequence[Streams]) -> pa.Table:
    """The records of all runs with the place of their run among them."""
    empty = STREAMS[stream].empty_table().append_column("run", pa.array([], pa.int32()))
    filled = [
        table.append_column("run", pa.array(np.full(table.num_rows, place, np.int32)))
        for place, run in enumerate(runs)
        if (table := run.tables[stream]).num_rows
    ]
    return pa.concat_tables([empty, *filled])


def _columns(table: pa.Table) -> dict[str, Any]:
    """Columns by name: categories and floats; the run's place stays whole."""
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_string(column.type):
            columns[name] = _categories(column)
        elif name == "run":
            columns[name] = column.to_numpy()
        else:
            columns[name] = _numbers(column)
    columns["t_s"] = np.full(table.num_rows, np.nan)
    return columns


def _numbers(column: pa.Array) -> Floats:
    values = column.cast(pa.float64(), safe=False)
    return np.asarray(values.to_numpy(zero_copy_only=False, writable=True))


def _categories(column: pa.Array) -> pd.Categorical:
    coded = column.dictionary_encode()
    names = np.asarray(coded.dictionary.to_pylist(), dtype=object)
    order = np.argsort(names)
    place = np.empty(len(names) + 1, np.intp)
    place[order] = np.arange(len(names))
    place[-1] = -1
    codes = place[coded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)]
    return pd.Categorical.from_codes(codes, pd.Index(names[order], dtype="str"))


def _on_axis(frames: Mapping[str, dict[str, Any]], axes: Sequence[Axis]) -> None:
    queries = frames["queries"]
    for device in queries["device"].categories:
        own = np.asarray(queries["device"] == device)
        roles = [axis.device_role(device) for axis in axes]
        _seconds(queries, "t_start_ns", axes, roles, own)
    work_ns = sum(np.nan_to_num(queries[name]) for name in ("decide_ns", "head_ns", "encode_ns"))
    queries["send_s"] = queries["t_s"] + work_ns / 1e9
    for kind, of in (("changes", "t_applied_ns"), ("samples", "t_ns")):
        for side in frames[kind]["direction"].categories:
            chosen = np.asarray(frames[kind]["direction"] == side)
            _seconds(frames[kind], of, axes, [axis.link_role(side) for axis in axes], chosen)
    for kind in ("load", "server"):
        _seconds(frames[kind], "t_ns", axes, [kind] * len(axes), slice(None))


def _seconds(
    columns: dict[str, Any], of: str, axes: Sequence[Axis], roles: Sequence[str], chosen: Any
) -> None:
    """Fill ``t_s`` of some rows from a role's own times."""
    origins = [axis.origin_ns(role) for axis, role in zip(axes, roles, strict=True)]
    origin_ns = np.array(origins, dtype=float)[columns["run"][chosen]]
    columns["t_s"][chosen] = (columns[of][chosen] - origin_ns) / 1e9


def _tell_reply_apart(
    queries: dict[str, Any], server: Mapping[str, Any], axes: Sequence[Axis]
) -> None:
    """Fill ``reply_ns`` and ``uplink_ns`` where measured clock offsets allow it.

    The reply lasts from the server's record of it until the device has the result; the rest of the
    network time is the uplink's. Both are right to the clocks' bounds, and never clipped. The
    server's record does not tell several devices' queries apart: then both stay unknown.
    """
    run, device = queries["run"], np.asarray(queries["device"].codes)
    known = np.array([{"device", "server"} <= set(axis.clocks) for axis in axes], dtype=bool)
    pairs = np.unique(np.stack([run, device]), axis=1)[0]
    known &= np.bincount(pairs, minlength=len(axes)) == 1
    answers = np.asarray(server["event"] == "query")
    # The first answer to each query of each run.
    keys, first = np.unique(_key(server, answers), return_index=True)
    if not len(keys):
        return
    answered_s = server["t_s"][answers][first]
    wanted = _key(queries, slice(None))
    found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    ended_s = queries["t_s"] + queries["e2e_ns"] / 1e9
    told = known[run] & (keys[found] == wanted)
    told &= (queries["bytes_up"] > 0) & np.asarray(queries["status"] == "ok")
    reply_ns = np.where(told, (ended_s - answered_s[found]) * 1e9, np.nan)
    queries["reply_ns"] = _filled(queries["reply_ns"], reply_ns)
    queries["uplink_ns"] = _filled(queries["uplink_ns"], queries["network_ns"] - reply_ns)


def _key(columns: Mapping[str, Any], chosen: Any) -> Floats:
    """Run and query as one number, exact below 2^53: up to 2^33 queries in each of 2^20 runs."""
    return np.asarray(columns["run"][chosen] * 2.0**33 + columns["query"][chosen])


def _filled(values: Floats, other: Floats) -> Floats:
    return np.where(np.isnan(values), other, values)


def _with_factors(columns: dict[str, Any], runs: Sequence[Streams]) -> pd.DataFrame:
    run = columns.pop("run")
    for factor in FACTORS:
        names = pd.Categorical([one.factors[factor] for one in runs])
        columns[factor] = pd.Categorical.from_codes(names.codes[run], names.categories)
    columns["trial"] = np.array([one.trial for one in runs], dtype=np.int64)[run]
    columns["run_index"] = np.array([one.index for one in runs], dtype=np.int64)[run]
    return pd.DataFrame(columns, copy=False)
