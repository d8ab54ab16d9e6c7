"""What every host was at the start of a campaign and at its end: each fact with name and unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.documents import Document
from analysis.formats import ABSENT, Cell, known, number, yes_no
from analysis.tables import Column, Table, text
from testbed.records import read_json

Value = str | float | bool | None
Read = Callable[[Document], Value]

# What of the orchestrator's packages computes the figures or moves the bytes.
_LIBRARIES = (
    *("torchvision", "numpy", "scipy", "pandas", "pyarrow", "matplotlib"),
    *("paramiko", "pyroute2"),
)


@dataclass(frozen=True)
class Fact:
    """One thing that a host says of itself; ``unit`` is empty for words and plain counts.

    What ``moves`` is another at every moment, and tells no two hosts apart.
    """

    title: str
    unit: str
    read: Read
    moves: bool = False

    @property
    def titled(self) -> str:
        """The title with its unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


def _at(path: str, scale: float | None = None) -> Read:
    """The value under keys joined by dots, in units of ``scale``; lists as words."""
    keys = path.split("/")

    def read(document: Document) -> Value:
        found: Any = document
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, dict):
            return ", ".join(f"{key} {value}" for key, value in sorted(found.items())) or None
        if isinstance(found, list):
            return ", ".join(map(str, found)) or None
        if isinstance(found, str):
            return " ".join(found.split())
        value: Value = found if scale is None or found is None else found / scale
        return value

    return read


def _role(key: str) -> Read:
    """What the first of a host's roles that tells it says in its greeting."""

    def read(document: Document) -> Value:
        told = (_at(key)(role) for role in document.get("roles", {}).values())
        return next((value for value in told if value is not None), None)

    return read


def _limit(key: str) -> Read:
    """A limit of the host's CPUs, ``all`` where it is recorded that there is none."""

    def read(document: Document) -> Value:
        told = document.get("cpu_limit")
        return None if told is None else told[key] or "all"

    return read


def _roles(document: Document) -> Value:
    return ", ".join(document.get("roles", {})) or None


def _built_archive(document: Document) -> Value:
    sha256 = _at("built_model/archive_sha256")(document)
    return sha256[:12] if isinstance(sha256, str) else None


def _sysctl(name: str, title: str, unit: str = "") -> Fact:
    return Fact(title, unit, _at(f"sysctls/{name}"))


FACTS: dict[str, Fact] = {
    "hostname": Fact("host name", "", _at("hostname")),
    "roles": Fact("roles", "", _roles),
    "os": Fact("operating system", "", _at("os")),
    "kernel": Fact("kernel", "", _at("kernel")),
    "machine": Fact("architecture", "", _at("machine")),
    "cpu_model": Fact("CPU", "", _at("cpu_model")),
    "cpu_count": Fact("CPUs", "", _at("cpu_count")),
    "cpus": Fact("CPUs allowed", "", _limit("cpus")),
    "cpuset": Fact("CPUs allowed, which", "", _limit("cpuset")),
    "cpu_capability": Fact("vector instructions used", "", _role("cpu_capability")),
    "governor": Fact("governor", "", _at("governor")),
    "frequency": Fact("frequency", "GHz", _at("frequency_hz", 1e9), moves=True),
    "frequency_min": Fact("frequency, least", "GHz", _at("frequency_min_hz", 1e9)),
    "frequency_max": Fact("frequency, most", "GHz", _at("frequency_max_hz", 1e9)),
    "celsius": Fact("temperature", "°C", _at("celsius"), moves=True),
    "busy": Fact("CPU in use before the run", "%", _at("busy_share", 0.01), moves=True),
    "memory": Fact("memory", "GB", _at("memory_bytes", 1e9)),
    "memory_available": Fact(
        "memory available", "GB", _at("memory_available_bytes", 1e9), moves=True
    ),
    "disk_free": Fact("disk free", "GB", _at("disk_free_bytes", 1e9), moves=True),
    "gpus": Fact("GPU, driver", "", _at("gpus")),
    "accelerator": Fact("accelerator asked for", "", _at("accelerator")),
    "python": Fact("Python", "", _at("python")),
    "torch": Fact("torch build", "", _at("torch")),
    "cuda": Fact("CUDA of that build", "", _role("cuda")),
    "threads": Fact("torch threads", "", _at("threads")),
    "built_by": Fact("model built there by", "", _at("built_model/by")),
    "built_archive": Fact("model built there, SHA-256", "", _built_archive),
    "codecs": Fact("codecs", "", _role("codecs")),
    "shaping": Fact("link shaped at", "", _at("shaping")),
    "router_kind": Fact("router made of", "", _at("router_kind")),
    "qdiscs": Fact("qdisc at the root", "", _at("qdiscs")),
    "default_qdisc": _sysctl("net.core.default_qdisc", "default qdisc"),
    "congestion_control": _sysctl("net.ipv4.tcp_congestion_control", "congestion control"),
    "tcp_rmem": _sysctl("net.ipv4.tcp_rmem", "TCP receive buffer (least, usual, most)", "bytes"),
    "tcp_wmem": _sysctl("net.ipv4.tcp_wmem", "TCP send buffer (least, usual, most)", "bytes"),
    "rmem_max": _sysctl("net.core.rmem_max", "socket receive buffer, most", "bytes"),
    "wmem_max": _sysctl("net.core.wmem_max", "socket send buffer, most", "bytes"),
    "slow_start": _sysctl("net.ipv4.tcp_slow_start_after_idle", "slow start after idle"),
    "testbed": Fact("testbed", "", _at("testbed")),
    "revision": Fact("source revision", "", _at("source/revision")),
    "dirty": Fact("source changed since", "", _at("source/dirty")),
    **{name: Fact(name, "", _at(f"packages/{name}")) for name in _LIBRARIES},
}


def read_environments(folder: Path) -> dict[str, Document]:
    """Each host's document in a campaign's or a run's folder."""
    return {
        file.name.split(".", 1)[1].removesuffix(".json"): read_json(file)
        for file in sorted(folder.glob("environment.*.json"))
    }


def ended(document: Document) -> Document:
    """A host at the end of what the document covers: what changed is under ``after``."""
    return {**document, **document.get("after", {})}


def environment_tables(
    recorded: Mapping[str, Mapping[str, Document]], runs: Sequence[str]
) -> list[Table]:
    """One row a fact that any host tells, a column a host: at the start, and what changed.

    Args:
        recorded: each folder's documents, by host.
        runs: the names of the runs' folders, in the order they were run.
    """
    campaign = [name for name in recorded if name not in runs and "orchestrator" in recorded[name]]
    found = [recorded[name] for name in (*runs, *campaign)]
    started = {host: document for part in reversed(found) for host, document in part.items()}
    finished = {host: document for part in found for host, document in part.items()}
    rows = [row for key in FACTS if (row := _row(key, started, finished)) is not None]
    if not rows:
        return []
    return [
        Table(
            "environment",
            "What each host was",
            "At the start of the first run; behind an arrow what it was at the end of the last, "
            "where that differs. Everything recorded is in environment.HOST.json of every run.",
            pd.DataFrame(rows),
            (("fact", text("title")), *(_column(host) for host in started)),
            style="facts",
        )
    ]


def _row(
    key: str, started: Mapping[str, Document], finished: Mapping[str, Document]
) -> dict[str, Any] | None:
    fact = FACTS[key]
    row: dict[str, Any] = {"fact": key, "title": fact.titled, "unit": fact.unit}
    for host, document in started.items():
        row[host] = first = fact.read(document)
        last = fact.read(ended(finished[host]))
        row[f"{host} at the end"] = last if last is not None and last != first else None
    told = any(row[host] is not None for host in started)
    return row if told else None


def _column(host: str) -> Column:
    def show(row: dict[str, Any]) -> Cell:
        first, last = shown(row[host]), shown(row[f"{host} at the end"])
        return Cell(first, "" if last in (first, ABSENT) else f"→ {last}")

    return host, show


def shown(value: Any) -> str:
    """A fact's value as people read it."""
    if isinstance(value, bool):
        return yes_no(value)
    if isinstance(value, str):
        return value
    return (f"{value:.0f}" if value == int(value) else number(value)) if known(value) else ABSENT
