"""A running campaign seen from its files, by anyone who can read them."""

from __future__ import annotations

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from testbed.records import LOCK, read_json

_TAIL_BYTES = 65_536


@dataclass(frozen=True)
class View:
    """A campaign at one moment."""

    state: str
    done: int
    planned: int
    run: str | None
    queries: int
    split: str | None
    median_ms: float | None
    log: tuple[str, ...]


def view(folder: Path) -> View:
    """Look at the campaign once; a state of ``killed`` is one nobody writes any more."""
    campaign = read_json(folder / "campaign.json", "state", "runs")
    state: str = campaign["state"]
    if state == "running" and not _held(folder / LOCK):
        state = "killed"
    runs: list[dict[str, Any]] = campaign["runs"]
    under_way = max(
        (path for path in folder.glob("*/queries.jsonl") if not _ended(path.parent)),
        key=lambda path: path.stat().st_mtime,
        default=None,
    )
    recent = _recent(under_way) if under_way and state == "running" else []
    log = folder / "campaign.log"
    return View(
        state=state,
        done=sum(run["state"] is not None for run in runs),
        planned=len(runs),
        run=under_way.parent.name if under_way and state == "running" else None,
        queries=recent[-1]["query"] + 1 if recent else 0,
        split=recent[-1]["split"] if recent else None,
        median_ms=median(r["e2e_ns"] for r in recent[-20:]) / 1e6 if recent else None,
        log=tuple(log.read_text().splitlines()[-5:]) if log.is_file() else (),
    )


def _ended(run: Path) -> bool:
    return (run / "manifest.json").is_file()


def _held(lock: Path) -> bool:
    try:
        with lock.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _recent(path: Path) -> list[dict[str, Any]]:
    """The last whole records of a stream that is being written."""
    with path.open("rb") as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - _TAIL_BYTES))
        lines = stream.read().split(b"\n")[:-1]
    return [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]
