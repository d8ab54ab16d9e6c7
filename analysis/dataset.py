"""Reads what a campaign left behind into frames, on one time axis; never edits it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from analysis.clocks import Axis, clocks_of
from analysis.documents import Document, read_document, read_optional
from analysis.environment import read_environments
from analysis.streams import parse_stream, schema
from testbed.errors import UserError
from testbed.records import sha256_file

PROFILE_RUN = "profile"  # and profile-<host> of each further kind of device
FACTORS = ("run_id", "link", "load", "policy", "trial")
SAMPLE_COUNTERS = ("bytes", "packets", "drops", "backlog_bytes", "overlimits")

# What is read of each stream; a null becomes NaN (2^53 ns is a hundred days).
_STREAMS = {
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
_KINDS = ("queries", "changes", "samples", "load", "server")


@dataclass(frozen=True)
class Run:
    """One run's factors and how it ended; ``state`` is ``interrupted`` without a manifest."""

    folder: Path
    run_id: str
    index: int
    link: str
    load: str
    policy: str
    trial: int
    duration_s: float
    schedules: Document
    manifest: Document | None
    altered: tuple[str, ...]
    lines_lost: int
    axis: Axis

    @property
    def state(self) -> str:
        """``complete``, ``interrupted`` or ``failed``."""
        return self.manifest["state"] if self.manifest else "interrupted"

    @property
    def validity(self) -> str:
        """``valid``, ``degraded`` or ``unverified``."""
        return self.manifest["validity"] if self.manifest else "unverified"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not valid, one line each."""
        if self.manifest is None:
            return ("it has no manifest, so it was cut short",)
        return tuple(self.manifest["reasons"])


@dataclass(frozen=True)
class Dataset:
    """A campaign's records.

    The frames hold one row a record, with the factor columns and ``t_s``, seconds since the device
    began to measure in that run; durations stay in nanoseconds. ``queries`` also has ``send_s``
    (head and encoding done).
    """

    root: Path
    name: str
    runs: tuple[Run, ...]
    queries: pd.DataFrame
    changes: pd.DataFrame
    samples: pd.DataFrame
    load: pd.DataFrame
    server: pd.DataFrame
    campaign: Document
    experiment: Document
    profile: Document | None
    verify: Document | None
    environments: dict[str, Document] = field(default_factory=dict)  # each host's first
    recorded: dict[str, dict[str, Document]] = field(default_factory=dict)  # of each folder

    @property
    def conditions(self) -> list[tuple[str, str]]:
        """Every (link, load) that was run, in the order of the runs."""
        return list(dict.fromkeys((run.link, run.load) for run in self.runs))

    @property
    def base_network_ns(self) -> float:
        """Network time beyond serialisation by the profile; 0 without a profile."""
        return float(self.profile["base_network_ns"]) if self.profile else 0.0

    @property
    def feature_encoding(self) -> str:
        """What a split sends, such as ``float32`` or ``int8+lz4``."""
        return str(self.experiment.get("encoding", {}).get("features", "float32"))

    @property
    def pixel_encoding(self) -> str:
        """What offload sends, such as ``uint8`` or ``jpeg:75``."""
        return str(self.experiment.get("encoding", {}).get("input", "uint8"))

    def delay_ns(self, link: str) -> int:
        """Propagation that the experiment asks for, both ways."""
        spec = self.experiment.get("links", {}).get(link, {})
        return sum(int(spec.get(side, {}).get("delay", 0)) for side in ("uplink", "downlink"))


def load_dataset(path: Path) -> Dataset:
    """Read a campaign folder, or the folder of a single run.

    Raises UserError for a folder that is neither, and for records of a newer release.
    """
    single = (path / "plan.json").is_file()
    root = path.parent if single else path
    folders = [path] if single else sorted(p.parent for p in path.glob("*/plan.json"))
    campaign = read_optional(root / "campaign.json") or {}
    if not single and not campaign and not folders:
        raise UserError(
            f"{path}: expected a campaign folder (campaign.json) or a run folder (plan.json), "
            "found neither; give the folder that the run printed"
        )
    recorded = {folder.name: read_environments(folder) for folder in [root, *folders]}
    environments = {
        host: document for found in reversed(recorded.values()) for host, document in found.items()
    }
    loaded = [_load_run(f, environments) for f in folders if single or not _is_profile(f)]
    loaded.sort(key=lambda pair: pair[0].index)
    runs = tuple(run for run, _ in loaded)
    resolved = (read_optional(root / "experiment.resolved.json") or {}).get("experiment")
    manifests = [run.manifest for run in runs if run.manifest]
    experiment = resolved or (manifests[0]["experiment"] if manifests else {})
    frames = {kind: _gather(kind, loaded) for kind in _KINDS}
    return Dataset(
        root=path,
        name=str(experiment.get("name") or campaign.get("experiment") or path.name),
        runs=runs,
        campaign={} if single else campaign,
        experiment=experiment,
        profile=read_optional(root / "profile.json"),
        verify=read_optional(root / "verify.json"),
        environments=environments,
        recorded=recorded,
        **frames,
    )


def _load_run(
    folder: Path, environments: dict[str, Document]
) -> tuple[Run, dict[str, pd.DataFrame]]:
    plan = read_document(folder / "plan.json")
    manifest = read_optional(folder / "manifest.json")
    frames, altered, lost = _read_streams(folder, manifest or {})
    clock = read_optional(folder / "clock.json") or {}
    axis = Axis.of_run((manifest or {}).get("t0_ns", {}), clocks_of(clock, environments), frames)
    run = Run(
        folder=folder,
        run_id=plan["run_id"],
        index=plan["index"],
        link=plan["link"],
        load=plan["load"],
        policy=plan["policy"],
        trial=plan["trial"],
        duration_s=plan["duration_ns"] / 1e9,
        schedules=plan["schedules"],
        manifest=manifest,
        altered=tuple(altered),
        lines_lost=lost,
        axis=axis,
    )
    return run, _on_axis(run, frames)


def _read_streams(
    folder: Path, manifest: Document
) -> tuple[dict[str, pd.DataFrame], list[str], int]:
    """Frames of each kind, the files that changed since the manifest, and lines lost."""
    tables, lost = {}, 0
    checksums: dict[str, str] = manifest.get("checksums", {})
    names = {f"{stream}.jsonl" for stream in _STREAMS}
    altered = [n for n in checksums if n not in names and _digest_of(folder / n) != checksums[n]]
    for stream, columns in _STREAMS.items():
        path = folder / f"{stream}.jsonl"
        lines = path.read_bytes() if path.is_file() else b""
        if path.name in checksums and hashlib.sha256(lines).hexdigest() != checksums[path.name]:
            altered.append(path.name)
        tables[stream], truncated = parse_stream(path, lines, columns)
        lost += truncated
    return _frames_of(tables), altered, lost


def _frames_of(tables: dict[str, pa.Table]) -> dict[str, pd.DataFrame]:
    """Frames of each kind; the link's stream holds two."""
    link = tables.pop("link")
    sampled = pc.is_valid(link["sample"])
    changes = link.filter(pc.invert(sampled)).drop_columns(["t_ns", "sample"])
    kept = link.filter(sampled).select(["direction", "t_ns", "sample"])
    tables |= {"changes": changes, "samples": kept.flatten()}
    tables["samples"] = tables["samples"].rename_columns(["direction", "t_ns", *SAMPLE_COUNTERS])
    frames = {kind: _frame(table) for kind, table in tables.items()}
    frames["queries"]["send_s"] = float("nan")
    return frames


def _digest_of(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


def _frame(table: pa.Table) -> pd.DataFrame:
    """A frame of text and floats."""
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_string(column.type):
            columns[name] = column.to_pandas().astype("str")
        else:
            columns[name] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return pd.DataFrame(columns).assign(t_s=float("nan"))


def _is_profile(folder: Path) -> bool:
    return folder.name == PROFILE_RUN or folder.name.startswith(f"{PROFILE_RUN}-")


def _on_axis(run: Run, frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    queries = frames["queries"]
    for device in set(queries["device"]):
        own = queries["device"] == device
        role = run.axis.device_role(device)
        queries.loc[own, "t_s"] = run.axis.seconds(role, queries.loc[own, "t_start_ns"])
    work_ns = queries[["decide_ns", "head_ns", "encode_ns"]].sum(axis=1)
    queries["send_s"] = queries["t_s"] + work_ns / 1e9
    for kind, column in (("changes", "t_applied_ns"), ("samples", "t_ns")):
        frame = frames[kind]
        for side in ("uplink", "downlink"):
            chosen = frame["direction"] == side
            times = frame.loc[chosen, column]
            frame.loc[chosen, "t_s"] = run.axis.seconds(run.axis.link_role(side), times)
    for kind in ("load", "server"):
        frames[kind]["t_s"] = run.axis.seconds(kind, frames[kind]["t_ns"])
    _tell_reply_apart(queries, frames["server"], run.axis)
    return {
        kind: frame.assign(**{f: getattr(run, f) for f in FACTORS}, run_index=run.index)
        for kind, frame in frames.items()
    }


def _tell_reply_apart(queries: pd.DataFrame, server: pd.DataFrame, axis: Axis) -> None:
    """Fill ``reply_ns`` and ``uplink_ns`` where measured clock offsets allow it.

    The reply lasts from the server's record of it until the device has the result; the rest of the
    network time is the uplink's. Both are right to the clocks' bounds, and never clipped. The
    server's record does not tell several devices' queries apart: then both stay unknown.
    """
    if not {"device", "server"} <= set(axis.clocks) or queries["device"].nunique() > 1:
        return
    answered = server[server["event"] == "query"].drop_duplicates("query").set_index("query")["t_s"]
    end_s = queries["t_s"] + queries["e2e_ns"] / 1e9
    remote = (queries["bytes_up"] > 0) & (queries["status"] == "ok")
    reply_ns = ((end_s - queries["query"].map(answered)) * 1e9).where(remote)
    queries["reply_ns"] = queries["reply_ns"].fillna(reply_ns)
    queries["uplink_ns"] = queries["uplink_ns"].fillna(queries["network_ns"] - reply_ns)


def _gather(kind: str, loaded: list[tuple[Run, dict[str, pd.DataFrame]]]) -> Any:
    """One frame of all runs; frames without rows would only blur the column types.

    Text becomes categories: rows are cut and compared often, and texts are few.
    """
    filled = [frames[kind] for _, frames in loaded if len(frames[kind])]
    if filled:
        joined = pd.concat(filled, ignore_index=True)
        return joined.astype(dict.fromkeys(joined.select_dtypes("str").columns, "category"))
    empty = _frames_of({name: columns.empty_table() for name, columns in _STREAMS.items()})
    return empty[kind].assign(**{f: pd.Series(dtype=object) for f in (*FACTORS, "run_index")})
