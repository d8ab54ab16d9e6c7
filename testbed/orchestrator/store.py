"""Where records are kept: one folder a campaign, one folder a run, written as they happen."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from testbed.errors import UserError
from testbed.records import (
    LOCK,
    MANIFEST,
    STREAMS,
    belongs_to_records,
    cannot_write,
    read_json,
    sha256_file,
    write_json,
)

# Where runs go that were repeated or cut short: kept, and not among the results.
ATTEMPTS = "attempts"
_LOCK_TRIES, _LOCK_PAUSE_S = 10, 0.05


def new_campaign(results: Path, experiment: str) -> Path:
    """Make ``results/<experiment>/<campaign>/``; the name sorts by time and never collides."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    folder = results / experiment / f"{stamp}-{secrets.token_hex(2)}"
    try:
        (folder / "logs").mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}; choose --results") from error
    return folder


def newest_campaign(results: Path) -> Path:
    """The campaign folder that was made last; UserError where there is none."""
    campaigns = sorted(results.glob("*/*/campaign.json"), key=lambda path: path.stat().st_mtime)
    if not campaigns:
        raise UserError(f"{results}: no campaign here; run one first: testbed run EXPERIMENT")
    return campaigns[-1].parent


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the campaign's folder; UserError naming who writes it already.

    The kernel lets go of the lock when its holder ends, however it ends.
    """
    with (folder / LOCK).open("a+") as stream:
        if not _locked(stream):
            stream.seek(0)
            raise UserError(
                f"{folder}: is being written by {stream.read().strip() or 'another process'}; "
                "wait for it, or end that process"
            )
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {platform.node()}\n")
        stream.flush()
        yield


def _locked(stream: IO[str]) -> bool:
    """Take the lock, if need be behind one who only looks (``testbed watch``), for a moment."""
    for _ in range(_LOCK_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_LOCK_PAUSE_S)
    return False


def set_aside(run: Path) -> Path:
    """Move a run that is to be repeated to the campaign's ``attempts``; where it is then."""
    attempts = run.parent / ATTEMPTS
    attempts.mkdir(exist_ok=True)
    number = 1 + len(list(attempts.glob(f"{run.name}.a*")))
    return run.rename(attempts / f"{run.name}.a{number}")


def state_of(run: Path) -> str | None:
    """State of a run by its manifest, ``interrupted`` without one, None where it never began."""
    if not (run / "plan.json").is_file():
        return "interrupted" if run.is_dir() else None
    try:
        state: str = read_json(run / MANIFEST, "state")["state"]
    except UserError:
        return "interrupted"
    return state


def seal(campaign: Path, state: str) -> None:
    """Write the campaign's manifest: a checksum for each file that no run's manifest vouches for.

    The runs' own manifests are among them, so that no record can be changed unseen.
    """
    vouched = {path.parent for path in campaign.rglob(MANIFEST) if path.parent != campaign}
    checksums = {}
    for path in sorted(campaign.rglob("*")):
        name = path.relative_to(campaign)
        own = path.name == MANIFEST and path.parent in vouched
        if not path.is_file() or str(name) == MANIFEST or not belongs_to_records(name):
            continue
        if own or not any(parent in vouched for parent in path.parents):
            checksums[str(name)] = sha256_file(path)
    write_json(campaign / MANIFEST, {"state": state, "checksums": checksums})


class RunFolder:
    """One run's folder while it is being written.

    Records go to their stream at once, a line each, so that whatever kills the orchestrator
    loses at most the record in flight. Leaving the context closes the streams; only
    :meth:`finish` makes the run complete. TestbedError where the disk takes no more.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise
        except OSError as error:
            raise cannot_write(path, error) from error
        self.path = path
        self.counts = dict.fromkeys(STREAMS, 0)
        self._lock = threading.Lock()
        self._streams: dict[str, IO[str]] = {
            name: (path / f"{name}.jsonl").open("a", buffering=1) for name in STREAMS
        }

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def append(self, stream: str, record: dict[str, Any]) -> None:
        """Write one record; called from the roles' reader threads."""
        line = json.dumps(record, separators=(",", ":")) + "\n"
        with self._lock:
            if (target := self._streams.get(stream)) is not None:
                try:
                    target.write(line)
                except OSError as error:
                    raise cannot_write(Path(target.name), error) from error
                self.counts[stream] += 1

    def write(self, name: str, document: dict[str, Any]) -> None:
        """Write one whole document of this run."""
        write_json(self.path / name, document)

    def close(self) -> None:
        """Close the streams; later records are not this run's."""
        with self._lock:
            while self._streams:
                # What a full disk refused was told by append; closing tries it once more.
                with suppress(OSError):
                    self._streams.popitem()[1].close()

    def finish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Close, checksum every file and write the manifest, last and atomically."""
        self.close()
        checksums = {
            str(file.relative_to(self.path)): sha256_file(file)
            for file in sorted(self.path.rglob("*"))
            if file.is_file()
        }
        manifest = {**manifest, "counts": self.counts, "checksums": checksums}
        self.write(MANIFEST, manifest)
        return manifest
