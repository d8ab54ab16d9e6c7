"""Reads what a campaign left behind into frames, on one time axis; never edits it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa

from analysis.clocks import Axis, clocks_of
from analysis.documents import Document, check_kinds, read_optional
from analysis.environment import read_environments
from analysis.frames import FACTORS, STREAMS, Streams, joined
from analysis.streams import parse_stream
from testbed.errors import UserError
from testbed.records import MANIFEST, read_json, sha256_file

# What a run's own documents must hold.
_PLAN: dict[str, type] = {
    **dict.fromkeys(FACTORS, str),
    **dict.fromkeys(("index", "trial", "duration_ns"), int),
    "schedules": dict,
}
_MANIFEST: dict[str, type] = {
    **dict.fromkeys(("state", "validity"), str),
    "reasons": list,
    **dict.fromkeys(("experiment", "t0_ns", "checksums"), dict),
}
PROFILE_RUN = "profile"  # and profile-<host> of each further kind of device


@dataclass(frozen=True)
class Run:
    """One run's factors and how it ended; ``state`` is ``interrupted`` without a manifest.

    ``behind``: where there are several links, what the directions of each device's own are named
    by: nothing for the first router's, else ``-<router>``.
    """

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
    behind: Mapping[str, str]

    def uplink_of(self, device: str) -> str:
        """The name of the direction from a device to the server."""
        return f"uplink{self.behind.get(device, '')}"

    def downlink_of(self, device: str) -> str:
        """The name of the direction from the server to a device."""
        return f"downlink{self.behind.get(device, '')}"

    @property
    def devices_of_links(self) -> dict[str, list[str]]:
        """What each link's directions are named by, with its devices; none is named of one link."""
        found: dict[str, list[str]] = {}
        for device, suffix in self.behind.items():
            found.setdefault(suffix, []).append(device)
        return found or {"": []}

    @property
    def first_device(self) -> str:
        """Of several links' devices the first by name; nothing where there is one link."""
        return min(self.behind, default="")

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

    What the frames hold, :func:`analysis.frames.joined` says.
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

    @cached_property
    def changes_of(self) -> Mapping[tuple[str, str], pd.DataFrame]:
        """The timed rate changes of each run and direction, in the order of time."""
        timed = self.changes.dropna(subset=["t_s"]).sort_values("t_s")
        groups = timed.groupby(["run_id", "direction"], observed=True)
        return {(str(run_id), str(side)): rows for (run_id, side), rows in groups}

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

    def delay_ns(self, run: Run, device: str) -> int:
        """Propagation that the experiment asks for on a device's link, both ways."""
        links = self.experiment.get("links", {})
        router = run.behind.get(device, "").removeprefix("-")
        spec = links.get(links.get(run.link, {}).get("at", {}).get(router, run.link), {})
        return sum(int(spec.get(side, {}).get("delay", 0)) for side in ("uplink", "downlink"))


def load_dataset(path: Path) -> Dataset:
    """Read a campaign folder, or the folder of a single run.

    Raises UserError for a folder that is neither, and for records of a newer release.
    """
    single = (path / "plan.json").is_file()
    root = path.parent if single else path
    folders = [path] if single else sorted(p.parent for p in path.glob("*/plan.json"))
    campaign = read_optional(root / "campaign.json", "state", "runs") or {}
    if not single and not campaign and not folders:
        raise UserError(
            f"{path}: expected a campaign folder (campaign.json) or a run folder (plan.json), "
            "found neither; give the folder that the run printed"
        )
    recorded = {folder.name: read_environments(folder) for folder in [root, *folders]}
    environments = {
        host: document for found in reversed(recorded.values()) for host, document in found.items()
    }
    chosen = [f for f in folders if single or not _is_profile(f)]
    # Parsing and hashing run outside the interpreter's lock.
    with ThreadPoolExecutor() as pool:
        loaded = list(pool.map(lambda folder: _load_run(folder, environments), chosen))
    loaded.sort(key=lambda pair: pair[0].index)
    runs = tuple(run for run, _ in loaded)
    resolved = read_optional(root / "experiment.resolved.json", "experiment") or {}
    check_kinds(root / "experiment.resolved.json", resolved, {"experiment": dict})
    manifests = [run.manifest for run in runs if run.manifest]
    experiment = resolved.get("experiment") or (manifests[0]["experiment"] if manifests else {})
    return Dataset(
        root=path,
        name=str(experiment.get("name") or campaign.get("experiment") or path.name),
        runs=runs,
        campaign={} if single else campaign,
        experiment=experiment,
        profile=read_optional(root / "profile.json", "candidates"),
        verify=read_optional(root / "verify.json", "splits"),
        environments=environments,
        recorded=recorded,
        **joined([streams for _, streams in loaded]),
    )


def _load_run(folder: Path, environments: dict[str, Document]) -> tuple[Run, Streams]:
    plan = read_json(folder / "plan.json", *_PLAN)
    manifest = read_optional(folder / MANIFEST, *_MANIFEST)
    check_kinds(folder / "plan.json", plan, _PLAN)
    check_kinds(folder / MANIFEST, manifest or {}, _MANIFEST)
    tables, altered, lost = _read_streams(folder, manifest or {})
    clock = read_optional(folder / "clock.json") or {}
    check_kinds(folder / "clock.json", clock, {"hosts": dict})
    hosts = clock.get("hosts", {})
    check_kinds(folder / "clock.json", hosts, dict.fromkeys(hosts, dict))
    axis = Axis.of_run((manifest or {}).get("t0_ns", {}), clocks_of(clock, environments), tables)
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
        behind=plan.get("behind", {}),
    )
    factors = {factor: str(plan[factor]) for factor in FACTORS}
    return run, Streams(tables, axis, run.index, run.trial, factors)


def _read_streams(folder: Path, manifest: Document) -> tuple[dict[str, pa.Table], list[str], int]:
    """A table of each stream, the files that changed since the manifest, and lines lost."""
    tables, lost = {}, 0
    checksums: dict[str, str] = manifest.get("checksums", {})
    names = {f"{stream}.jsonl" for stream in STREAMS}
    altered = [n for n in checksums if n not in names and _digest_of(folder / n) != checksums[n]]
    for stream, columns in STREAMS.items():
        path = folder / f"{stream}.jsonl"
        lines = path.read_bytes() if path.is_file() else b""
        if path.name in checksums and hashlib.sha256(lines).hexdigest() != checksums[path.name]:
            altered.append(path.name)
        tables[stream], truncated = parse_stream(path, lines, columns)
        lost += truncated
    return tables, altered, lost


def _digest_of(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


def _is_profile(folder: Path) -> bool:
    return folder.name == PROFILE_RUN or folder.name.startswith(f"{PROFILE_RUN}-")
