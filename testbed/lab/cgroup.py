"""CPU limits of hosts: one cgroup a host, version 1 or 2, whichever the kernel has mounted.

A share becomes a CFS quota (Documentation/scheduler/sched-bwc.rst). Where no cgroup can be made
the lab goes on without the limit and says why.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CONTROLLERS = ("cpu", "cpuset")
_LEAST_QUOTA_US = 1000  # of the kernel
# The kernel's greatest: within its quota a host goes before all else that the machine runs.
_MOST_SHARES, _MOST_WEIGHT = "262144", "10000"
_RELEASE_S = 5.0


@dataclass(frozen=True)
class Tree:
    """Where a host's group goes: for each controller its parent directory.

    In version 2 both are the same directory. A controller that the kernel lacks is missing.
    """

    version: int
    parents: dict[str, Path]

    def groups(self, name: str) -> tuple[Path, ...]:
        """The directories of a group of that name."""
        return tuple(sorted({parent / name for parent in self.parents.values()}))

    def switched_off(self) -> tuple[str, ...]:
        """Version 2: controllers that groups below the root do not have yet."""
        if self.version == 1:
            return ()
        return tuple(
            controller
            for controller, parent in self.parents.items()
            if controller not in (parent / "cgroup.subtree_control").read_text().split()
        )


def find_tree(mounts: Path = Path("/proc/mounts")) -> Tree:
    """The hierarchies that hold ``cpu`` and ``cpuset``; empty parents where there are none."""
    first: dict[str, Path] = {}
    for line in mounts.read_text().splitlines():
        _, directory, kind, options = line.split()[:4]
        root = Path(directory)
        if kind == "cgroup":
            for controller in CONTROLLERS:
                if controller in options.split(","):
                    first.setdefault(controller, root)
        elif kind == "cgroup2":
            offered = (root / "cgroup.controllers").read_text().split()
            found = {controller: root for controller in CONTROLLERS if controller in offered}
            if found:
                return Tree(2, found)
    return Tree(1, first)


def quota(cpus: float) -> tuple[int, int]:
    """Period and quota in µs of a share of one CPU's time.

    10 ms is the shortest period that a 4 ms tick still meters well; longer ones make the host
    run in bursts. Only a small share needs 20 ms, to keep its quota above the kernel's least.
    """
    period_us = 10_000 if cpus * 10_000 >= _LEAST_QUOTA_US else 20_000
    return period_us, round(cpus * period_us)


def make(tree: Tree, name: str, cpus: float | None, cpuset: str | None) -> str | None:
    """Make a host's group; returns why it is not, or only partly, limited, or None."""
    reasons = []
    if cpus is not None:
        reasons.append(_attempt(f"cpus {cpus}", tree, "cpu", name, _quota_files(tree, cpus)))
    if cpuset is not None:
        reasons.append(_pin(tree, name, cpuset))
    return "; ".join(reason for reason in reasons if reason) or None


def move(groups: tuple[Path, ...], pid: int) -> None:
    """Move a process with all its threads into the groups; raises OSError if it cannot be."""
    for group in groups:
        if group.is_dir():
            (group / "cgroup.procs").write_text(f"{pid}\n")


def remove(groups: tuple[Path, ...]) -> list[str]:
    """Remove groups that exist, first handing a leftover process back to the parent."""
    removed = []
    for group in groups:
        if group.is_dir():
            _remove(group)
            removed.append(f"cgroup {group}")
    return removed


def switch(tree: Tree, sign: str, controllers: tuple[str, ...]) -> None:
    """Version 2: switch controllers on (``+``) or off (``-``) for the groups below the root.

    Where the kernel refuses, the group's own files are missing, and :func:`make` says so.
    """
    for controller in controllers:
        if controller in tree.parents:
            with suppress(OSError):
                (tree.parents[controller] / "cgroup.subtree_control").write_text(sign + controller)


def cpu_list(text: str) -> set[int]:
    """CPU numbers of a list such as ``0,2-3``; raises ValueError on anything else."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        numbers.update(range(int(first), int(last if dash else first) + 1))
    return numbers


def _quota_files(tree: Tree, cpus: float) -> dict[str, str]:
    period_us, quota_us = quota(cpus)
    if tree.version == 2:
        return {"cpu.max": f"{quota_us} {period_us}", "cpu.weight": _MOST_WEIGHT}
    return {
        "cpu.cfs_period_us": str(period_us),
        "cpu.cfs_quota_us": str(quota_us),
        "cpu.shares": _MOST_SHARES,
    }


def _pin(tree: Tree, name: str, cpuset: str) -> str | None:
    wanted, here = cpu_list(cpuset), os.sched_getaffinity(0)
    have = sorted(wanted & here)
    told = ",".join(map(str, sorted(here)))
    if not have:
        return f"cpuset {cpuset}: not pinned, usable CPUs here are {told}"
    files = {"cpuset.cpus": ",".join(map(str, have))}
    if tree.version == 1 and "cpuset" in tree.parents:  # a group without memory nodes takes no task
        files["cpuset.mems"] = (tree.parents["cpuset"] / "cpuset.mems").read_text().strip()
    refused = _attempt(f"cpuset {cpuset}", tree, "cpuset", name, files)
    if refused is None and len(have) < len(wanted):
        return f"cpuset {cpuset}: pinned to {files['cpuset.cpus']}, usable CPUs here are {told}"
    return refused


def _attempt(
    what: str, tree: Tree, controller: str, name: str, files: dict[str, str]
) -> str | None:
    parent = tree.parents.get(controller)
    if parent is None:
        return f"{what}: no limit, no {controller} cgroup is mounted"
    try:
        (parent / name).mkdir(exist_ok=True)
        for file, value in files.items():
            (parent / name / file).write_text(value)
    except OSError as error:
        if tree.version == 1:  # its own directory, and in version 1 a half-made group takes no task
            with suppress(OSError):
                (parent / name).rmdir()
        return f"{what}: no limit, {error.filename or parent / name}: {error.strerror}"
    return None


def _remove(group: Path) -> None:
    deadline = time.monotonic() + _RELEASE_S
    while True:
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (group.parent / "cgroup.procs").write_text(pid)
        try:
            group.rmdir()
        except OSError as error:  # busy until the kernel has let go of processes just ended
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return
