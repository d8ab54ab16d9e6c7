"""The processes of a lab, found by the namespace that they live in and by nothing else."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from testbed.errors import TestbedError
from testbed.lab.journal import NETNS_DIR, Journal

NamespaceId = tuple[int, int]  # device and inode: how the kernel tells namespaces apart
_TERM_PATIENCE_S = 2.0
_KILL_PATIENCE_S = 10.0


def namespace_id(path: Path) -> NamespaceId | None:
    """The namespace that a file such as ``/proc/PID/ns/net`` stands for, None if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def start_ticks(pid: int) -> int | None:
    """When the process started (clock ticks since boot), None if it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name before may hold anything
    return None if fields[0] == "Z" else int(fields[19])  # proc(5), field 22


def namespaces_of(journal: Journal) -> set[NamespaceId]:
    """The lab's namespaces, also one whose name is gone but whose sshd lives."""
    found = set()
    for entry in journal.hosts.values():
        found.add(namespace_id(NETNS_DIR / entry.namespace))
        if entry.sshd and start_ticks(entry.sshd[0]) == entry.sshd[1]:
            found.add(namespace_id(Path(f"/proc/{entry.sshd[0]}/ns/net")))
    return {one for one in found if one} - {namespace_id(Path("/proc/self/ns/net")) or (0, 0)}


def inside(namespaces: set[NamespaceId]) -> list[int]:
    """Pids of all processes in the namespaces, but never the caller's own."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if pid != os.getpid() and _lives_in(pid, namespaces)]


def end_all(namespaces: set[NamespaceId]) -> list[str]:
    """End every process in the namespaces: TERM, a bounded wait, KILL; returns what was ended.

    Raises TestbedError if something outlives KILL.
    """
    ended = [f"process {pid} ({_name(pid)})" for pid in inside(namespaces)]
    _signal(inside(namespaces), namespaces, signal.SIGTERM, time.monotonic() + _TERM_PATIENCE_S)
    deadline = time.monotonic() + _KILL_PATIENCE_S
    while pids := inside(namespaces):  # again and again: a process may fork while it is hunted
        if time.monotonic() > deadline:
            raise TestbedError(f"lab: processes {pids} outlive SIGKILL; see their state in /proc")
        _signal(pids, namespaces, signal.SIGKILL, deadline)
    return ended


def _lives_in(pid: int, namespaces: set[NamespaceId]) -> bool:
    return namespace_id(Path(f"/proc/{pid}/ns/net")) in namespaces


def _signal(
    pids: Iterable[int], namespaces: set[NamespaceId], signum: signal.Signals, deadline: float
) -> None:
    """Signal all, then wait for all; a pidfd cannot come to mean another process meanwhile."""
    handles = []
    try:
        for pid in pids:
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            handles.append(handle)
            if _lives_in(pid, namespaces):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signum)
        for handle in handles:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    finally:
        for handle in handles:
            os.close(handle)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"
