"""Where records are kept: one folder a campaign, one folder a run, written as they happen."""

from __future__ import annotations

import json
import secrets
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from testbed.errors import UserError
from testbed.records import STREAMS, sha256_file, write_json


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


class RunFolder:
    """One run's folder while it is being written.

    Records go to their stream at once, a line each, so that whatever kills the orchestrator
    loses at most the record in flight. Leaving the context closes the streams; only
    :meth:`finish` makes the run complete.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True)
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
                target.write(line)
                self.counts[stream] += 1

    def write(self, name: str, document: dict[str, Any]) -> None:
        """Write one whole document of this run."""
        write_json(self.path / name, document)

    def close(self) -> None:
        """Close the streams; later records are not this run's."""
        with self._lock:
            while self._streams:
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
        self.write("manifest.json", manifest)
        return manifest
