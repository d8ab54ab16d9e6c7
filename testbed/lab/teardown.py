"""Removing labs: exactly what the journal says was made, whoever made it and however they died."""

from __future__ import annotations

from pathlib import Path

from testbed.lab import cgroup, journal, network, processes
from testbed.lab.journal import Journal


def down(lab_id: str) -> list[str]:
    """Remove one lab; returns what was removed.

    Raises UserError if there is no such lab, TestbedError if a process of it cannot be ended.
    """
    with journal.locked():
        return _remove(journal.read(lab_id))


def down_all() -> list[str]:
    """Remove every lab of the run directory, also half-made ones; returns what was removed.

    A lab whose journal cannot be read stays (:func:`testbed.lab.unreadable` names it).
    """
    with journal.locked():
        removed = [what for lab in journal.read_all()[0] for what in _remove(lab)]
        return removed + journal.sweep()


def _remove(lab: Journal) -> list[str]:
    """Processes first, while their namespaces still have names; the journal last of all."""
    entries = lab.hosts.values()
    removed = processes.end_all(processes.namespaces_of(lab))
    for entry in entries:
        removed += cgroup.remove(tuple(map(Path, entry.cgroups)))
    removed += network.remove(
        [entry.namespace for entry in entries], [entry.link for entry in entries]
    )
    if journal.lab_ids() == [lab.lab_id]:  # other labs need the controllers that are on
        cgroup.switch(cgroup.find_tree(), "-", lab.controllers)
    journal.discard(lab)
    return [*removed, f"directory {lab.run_dir}"]
