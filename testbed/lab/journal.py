"""What a lab is made of, on disk before it is made: enough to remove it, whoever died."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from testbed.errors import UserError
from testbed.records import read_json, write_json

NETNS_DIR = Path("/run/netns")
_FILE = "lab.json"
_HALF = ".tb-"  # a run directory not yet, or no longer, under its name


@dataclass(frozen=True)
class Entry:
    """One host of a lab; ``sshd`` is the pid and start time (clock ticks) of its listener.

    ``kernel`` is ``host``, or ``uml`` for a guest whose first process here is that pid.
    """

    namespace: str
    link: str
    address: str
    port: int
    cgroups: tuple[str, ...]
    limit: str | None = None
    sshd: tuple[int, int] | None = None
    kernel: str = "host"


@dataclass(frozen=True)
class Journal:
    """One lab. ``controllers``: v2 cgroup controllers that labs switched on at the root."""

    lab_id: str
    subnet: str
    hosts: dict[str, Entry]
    controllers: tuple[str, ...] = ()

    @property
    def run_dir(self) -> Path:
        """The lab's private directory."""
        return run_root() / self.lab_id


def run_root() -> Path:
    """The directory that holds a private directory for each lab.

    Raises UserError for a path that sshd's configuration cannot carry.
    """
    root = Path(os.environ.get("TESTBED_RUN_DIR", "/run/testbed"))
    if not root.is_absolute() or any(letter.isspace() or letter in "\"'%#" for letter in str(root)):
        raise UserError(f"TESTBED_RUN_DIR: expected an absolute path of plain letters, got {root}")
    return root


@contextmanager
def locked() -> Iterator[None]:
    """Hold the machine's lab lock: addresses, namespaces and cgroups are shared by all labs.

    The lock is on the namespaces' directory itself, so it leaves no file behind and ends with
    its holder.
    """
    NETNS_DIR.mkdir(exist_ok=True)
    handle = os.open(NETNS_DIR, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def create(journal: Journal) -> None:
    """Make the run directory with the journal already in it.

    Raises UserError if there is a lab of that id.
    """
    run_root().mkdir(mode=0o700, parents=True, exist_ok=True)
    if journal.run_dir.exists():
        raise UserError(
            f"lab {journal.lab_id}: exists already; remove it (testbed lab down) or leave the id "
            "out to get a fresh one"
        )
    half = run_root() / f"{_HALF}{journal.lab_id}"
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(mode=0o700)
    write_json(half / _FILE, asdict(journal))
    half.rename(journal.run_dir)


def update(journal: Journal) -> None:
    """Replace the journal atomically."""
    write_json(journal.run_dir / _FILE, asdict(journal))


def discard(journal: Journal) -> None:
    """Remove the run directory; a kill in the middle leaves it for :func:`sweep`."""
    half = run_root() / f"{_HALF}{journal.lab_id}"
    shutil.rmtree(half, ignore_errors=True)
    journal.run_dir.rename(half)
    shutil.rmtree(half)


def sweep() -> list[str]:
    """Remove run directories that never came under their name, or left it; the lock is held."""
    halves = [path for path in _children() if path.name.startswith(_HALF)]
    for half in halves:
        shutil.rmtree(half)
    return [f"directory {half}" for half in halves]


def read(lab_id: str) -> Journal:
    """Read one lab's journal; raises UserError if there is none, or none that can be read."""
    if lab_id not in (known := lab_ids()):
        raise UserError(f"lab {lab_id}: no such lab (there is: {', '.join(known) or 'none'})")
    path = run_root() / lab_id / _FILE
    remedy = f"remove the namespaces that `ip netns` shows as tb-{lab_id}-…, then {path.parent}"
    document = read_json(path, "lab_id", "subnet", "hosts", "controllers", remedy=remedy)
    try:
        hosts = {host: _entry(**found) for host, found in document["hosts"].items()}
        return Journal(lab_id, str(document["subnet"]), hosts, tuple(document["controllers"]))
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected the journal of a lab, got: {error}; {remedy}") from error


def _entry(*, cgroups: list[str], sshd: list[int] | None, **found: Any) -> Entry:
    return Entry(cgroups=tuple(cgroups), sshd=(sshd[0], sshd[1]) if sshd else None, **found)


def read_all() -> tuple[list[Journal], list[str]]:
    """Every lab that can be read, and in one line each why the others cannot."""
    labs, faults = [], []
    for lab_id in lab_ids():
        try:
            labs.append(read(lab_id))
        except UserError as error:
            faults.append(f"lab {lab_id}: {error}")
    return labs, faults


def lab_ids() -> list[str]:
    """Ids of all labs that have a journal, sorted."""
    return sorted(path.name for path in _children() if path.name[0] != "." and _holds(path))


def _holds(path: Path) -> bool:
    return (path / _FILE).is_file()


def _children() -> list[Path]:
    root = run_root()
    return list(root.iterdir()) if root.is_dir() else []
