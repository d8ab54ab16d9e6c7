"""Who shapes an interface and how it was before: one file an interface, locked while it is held.

The files lie in ``/run/testbed-link`` and not in a user's cache folder: every user of the host
must see the same lock, and a reboot, which undoes all shaping, removes them too. The lock is the
kernel's (``flock``) on the journal itself. A watchdog inherits it, so an interface stays held until
it is back as it was, whoever died.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from testbed.errors import TestbedError, UserError
from testbed.records import SCHEMA_VERSION

FOLDER = Path("/run/testbed-link")
SUFFIX = ".json"
WATCHDOG_S, PACE_S = 10.0, 0.05


@dataclass(frozen=True)
class Entry:
    """One interface that is, or is about to be, shaped.

    ``address`` (of the hardware) tells the interface from a later one of the same name and index.
    ``owner`` is who asked, in words; ``pid`` the role; ``before`` the state that was found, None
    while nothing has been changed yet; ``fault`` why putting it back failed.
    """

    interface: str
    index: int
    address: str | None
    owner: str
    pid: int
    since_s: float
    boot_id: str
    namespace: int
    before: dict[str, Any] | None = None
    fault: str | None = None

    def told(self) -> str:
        """The holder in words."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since_s))
        return f"{self.owner} (process {self.pid}, since {since})"


def boot_id() -> str:
    """This boot of this kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def namespace_id() -> int:
    """The inode of the calling process's network namespace."""
    return Path("/proc/self/ns/net").stat().st_ino


class Journal:
    """One interface's journal, open and locked; closing lets go, and the file stays.

    Raises UserError where somebody else holds it, naming them.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self._handle = handle

    @classmethod
    def claim(cls, interface: str) -> Journal:
        """Open and lock the journal of an interface of this namespace, empty or stale."""
        # Kernels of user-mode routers number their namespaces alike: the boot id tells them apart.
        path = FOLDER / f"{boot_id()[:8]}-{namespace_id()}-{interface}{SUFFIX}"
        deadline_s = time.monotonic() + WATCHDOG_S
        while (journal := cls.lock(path)) is None:
            held = read(path)
            orphan = held is not None and not Path(f"/proc/{held.pid}").exists()
            if not orphan or time.monotonic() > deadline_s:
                told = held.told() if held else "another campaign that is just starting"
                raise UserError(
                    f"{interface}: the link is held by {told}; wait for its end, or end it: "
                    "testbed link clear"
                )
            time.sleep(PACE_S)  # its watchdog is putting it back; a lock has no bounded wait
        return journal

    @classmethod
    def lock(cls, path: Path) -> Journal | None:
        """The journal at a path, made where missing; None where it is held."""
        while True:
            path.parent.mkdir(mode=0o755, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its last holder may have removed it between the two calls.
                if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                    return cls(path, handle)
            except BlockingIOError:
                os.close(handle)
                return None
            os.close(handle)

    @classmethod
    def inherited(cls, handle: int) -> Journal:
        """A journal locked by the process that gave us the open file."""
        return cls(Path(os.readlink(f"/proc/self/fd/{handle}")), handle)

    @property
    def handle(self) -> int:
        """The open file, for a process that is to hold the lock too."""
        return self._handle

    def entry(self) -> Entry | None:
        """What it says; None where it was never written whole: then nothing had been changed."""
        return read(self.path)

    def write(self, entry: Entry) -> None:
        """Write the entry and see it on disk before anything is changed."""
        text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(entry)}).encode()
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, text, 0)
        os.fsync(self._handle)

    def discard(self) -> None:
        """The interface is as it was: remove the journal and let go."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go; a second call does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def read(path: Path) -> Entry | None:
    """An entry that was written whole, or None. Raises TestbedError for a newer release's."""
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    version = document.pop("schema_version")
    if version > SCHEMA_VERSION:
        raise TestbedError(
            f"{path}: schema_version: expected {SCHEMA_VERSION}, got {version}; restore with the "
            "testbed release that shaped the link"
        )
    return Entry(**document)


def paths() -> Iterator[Path]:
    """Every journal of this machine, sorted by name."""
    yield from sorted(FOLDER.glob(f"*{SUFFIX}")) if FOLDER.is_dir() else ()
