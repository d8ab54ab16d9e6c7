"""Reads what a campaign left behind into frames, on one time axis; never edits it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.clocks import Axis, clocks_of
from analysis.documents import Document, read_document, read_optional, read_stream
from testbed.errors import UserError
from testbed.records import sha256_file

PROFILE_RUN = "profile"
FACTORS = ("run_id", "link", "load", "policy", "trial")

# Columns of each frame: text, then numbers (null becomes NaN; 2^53 ns is a hundred days).
_COLUMNS: dict[str, tuple[str, str]] = {
    "queries": (
        "device kind split encoding status",
        "query batch t_due_ns t_start_ns decide_ns head_ns encode_ns send_ns uplink_ns "
        "server_wait_ns decode_ns tail_ns reply_ns e2e_ns bytes_up bytes_down rate_est_bps "
        "load_est predicted_ns network_ns span_bytes span_ns steal_ticks late send_s",
    ),
    "changes": (
        "direction",
        "n t_planned_ns t_applied_ns late_ns took_ns rate_bps class_bps burst_bytes",
    ),
    "samples": ("direction", "t_ns bytes packets drops backlog_bytes overlimits"),
    "load": ("", "t_ns interval_ns clients queries busy_share"),
    "server": ("event", "t_ns query"),
}


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
    environments: dict[str, Document] = field(default_factory=dict)

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
        """What a split sends: ``float32`` or ``float16``."""
        return str(self.experiment.get("encoding", {}).get("features", "float32"))

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
    environments = _environments([root, *folders])
    loaded = [_load_run(f, environments) for f in folders if single or f.name != PROFILE_RUN]
    loaded.sort(key=lambda pair: pair[0].index)
    runs = tuple(run for run, _ in loaded)
    resolved = (read_optional(root / "experiment.resolved.json") or {}).get("experiment")
    manifests = [run.manifest for run in runs if run.manifest]
    experiment = resolved or (manifests[0]["experiment"] if manifests else {})
    frames = {kind: _gather(kind, loaded) for kind in _COLUMNS}
    return Dataset(
        root=path,
        name=str(experiment.get("name") or campaign.get("experiment") or path.name),
        runs=runs,
        campaign={} if single else campaign,
        experiment=experiment,
        profile=read_optional(root / "profile.json"),
        verify=read_optional(root / "verify.json"),
        environments=environments,
        **frames,
    )


def _environments(folders: Iterable[Path]) -> dict[str, Document]:
    found: dict[str, Document] = {}
    for folder in folders:
        for file in sorted(folder.glob("environment.*.json")):
            found.setdefault(file.name.split(".", 1)[1].removesuffix(".json"), read_document(file))
    return found


def _load_run(
    folder: Path, environments: dict[str, Document]
) -> tuple[Run, dict[str, pd.DataFrame]]:
    plan = read_document(folder / "plan.json")
    manifest = read_optional(folder / "manifest.json")
    streams, lost = {}, 0
    for name in ("queries", "link", "load", "server"):
        streams[name], truncated = read_stream(folder / f"{name}.jsonl")
        lost += truncated
    clock = read_optional(folder / "clock.json") or {}
    axis = Axis.of_run((manifest or {}).get("t0_ns", {}), clocks_of(clock, environments), streams)
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
        altered=tuple(_altered(folder, manifest or {})),
        lines_lost=lost,
        axis=axis,
    )
    return run, _frames(run, streams)


def _altered(folder: Path, manifest: Document) -> Iterable[str]:
    for name, digest in manifest.get("checksums", {}).items():
        file = folder / name
        if not file.is_file() or sha256_file(file) != digest:
            yield name


def _frames(run: Run, streams: dict[str, list[Document]]) -> dict[str, pd.DataFrame]:
    link = streams["link"]
    rows = {
        "queries": streams["queries"],
        "changes": [record for record in link if "sample" not in record],
        "samples": [{**record, **record["sample"]} for record in link if "sample" in record],
        "load": streams["load"],
        "server": streams["server"],
    }
    frames = {kind: _frame(kind, records) for kind, records in rows.items()}
    queries = frames["queries"]
    queries["t_s"] = run.axis.seconds("device", queries["t_start_ns"])
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
        kind: frame.assign(**{factor: getattr(run, factor) for factor in FACTORS})
        for kind, frame in frames.items()
    }


def _tell_reply_apart(queries: pd.DataFrame, server: pd.DataFrame, axis: Axis) -> None:
    """Fill ``reply_ns`` and ``uplink_ns`` where measured clock offsets allow it.

    The reply lasts from the server's record of it until the device has the result; the rest of the
    network time is the uplink's. Both are right to the clocks' bounds, and never clipped.
    """
    if not {"device", "server"} <= set(axis.clocks):
        return
    answered = server[server["event"] == "query"].drop_duplicates("query").set_index("query")["t_s"]
    end_s = queries["t_s"] + queries["e2e_ns"] / 1e9
    remote = (queries["bytes_up"] > 0) & (queries["status"] == "ok")
    reply_ns = ((end_s - queries["query"].map(answered)) * 1e9).where(remote)
    queries["reply_ns"] = queries["reply_ns"].fillna(reply_ns)
    queries["uplink_ns"] = queries["uplink_ns"].fillna(queries["network_ns"] - reply_ns)


def _frame(kind: str, rows: list[Document]) -> pd.DataFrame:
    text, numbers = (names.split() for names in _COLUMNS[kind])
    columns = {n: pd.Series([row.get(n) for row in rows], dtype=object) for n in text}
    columns |= {n: pd.Series([row.get(n) for row in rows], dtype=float) for n in numbers}
    return pd.DataFrame({**columns, "t_s": pd.Series(float("nan"), index=range(len(rows)))})


def _gather(kind: str, loaded: list[tuple[Run, dict[str, pd.DataFrame]]]) -> Any:
    """One frame of all runs; frames without rows would only blur the column types."""
    filled = [frames[kind] for _, frames in loaded if len(frames[kind])]
    if filled:
        return pd.concat(filled, ignore_index=True)
    empty = _frame(kind, [])
    return empty.assign(**{factor: pd.Series(dtype=object) for factor in FACTORS})
