"""What a worker reports of the process and the host it runs on. Standard library and torch."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic_ns, process_time_ns
from typing import Any

import torch

from testbed.control import Message
from testbed.model.engine import Engine
from testbed.model.options import Options
from testbed.model.table import SplitTable
from testbed.worker.codecs import importable
from testbed.worker.inputs import seeded_inputs

_STEAL_EVERY_NS = 500_000_000


def greeting() -> Message:
    """Fields of a worker's ``hello``."""
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "codecs": importable(),
    }


def build_engine(
    message: Message, table: SplitTable, candidates: Sequence[str]
) -> tuple[Engine, Message]:
    """The engine that a ``setup`` message asks for, and what ``ready`` tells of it.

    ``engine`` says how close an engine with options is to the plain one, None for a plain one.
    """
    options = Options(**message.get("engine", {}))
    make = partial(
        Engine,
        Path(message["archive"]).expanduser(),
        message["archive_sha256"],
        table,
        batch=message["batch"],
        threads=message["threads"],
        accelerator=message.get("accelerator", "cpu"),
    )
    engine = make(candidates, options=options)
    if options.plain:
        return engine, {"engine": None}
    (x,) = seeded_inputs(table, batch=message["batch"], seed=0, count=1)
    return engine, {"engine": engine.closeness(x, make(()))}


def _memory_bytes(field: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process: its memory that is in RAM now, or was at most."""
    with open("/proc/self/status") as stream:
        kilobytes = next(line.split()[1] for line in stream if line.startswith(f"{field}:"))
    return int(kilobytes) * 1024


def resident_bytes() -> int:
    """Memory of this process that is in RAM now."""
    return _memory_bytes("VmRSS")


@dataclass(frozen=True)
class Usage:
    """What the process has used since it began: page faults and processor time."""

    faults: int
    cpu_ns: int

    @classmethod
    def now(cls) -> Usage:
        """Both counters at this moment."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(used.ru_minflt + used.ru_majflt, process_time_ns())

    def since(self, before: Usage) -> dict[str, Any]:
        """Fields of ``done``: what was used between two moments, and the most memory ever."""
        return {
            "faults": self.faults - before.faults,
            "cpu_ns": self.cpu_ns - before.cpu_ns,
            "peak_rss_bytes": _memory_bytes("VmHWM"),
        }


def _ticks() -> tuple[int, int] | None:
    """(all, stolen) ticks of the host since boot; None where the kernel tells no steal."""
    with open("/proc/stat") as stream:
        fields = [int(value) for value in stream.readline().split()[1:]]
    # user nice system idle iowait irq softirq steal (proc(5)); guest time is within user.
    return (sum(fields[:8]), fields[7]) if len(fields) >= 8 else None


class StealMeter:
    """Processor time that a hypervisor gave to others, read seldom because reading costs."""

    def __init__(self) -> None:
        self._first = self._last = _ticks()
        self._next_ns = monotonic_ns() + _STEAL_EVERY_NS

    def sample(self, now_ns: int) -> int | None:
        """Ticks stolen since the last reading; None between two readings."""
        if now_ns < self._next_ns or self._last is None:
            return None
        self._next_ns = now_ns + _STEAL_EVERY_NS
        before, self._last = self._last, _ticks()
        return self._last[1] - before[1] if self._last else None

    def share(self) -> float | None:
        """Stolen share of all ticks since the meter was made."""
        now = _ticks()
        if now is None or self._first is None or now[0] == self._first[0]:
            return None
        return (now[1] - self._first[1]) / (now[0] - self._first[0])
