"""What a host needs, carried there once: the package's host side, and the model archive.

Both are content-addressed under the user's cache folder on the host; nothing is installed there
and nothing outside that folder is written.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import tarfile
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path

import testbed
from testbed.hosts.channel import Progress
from testbed.hosts.connection import Connection

# The orchestrator's own parts: they import what a host does not have.
ORCHESTRATOR_ONLY = frozenset(
    {"cli", "__main__.py", "progress.py", "config", "hosts", "lab", "orchestrator", "traces"}
)
UPLOAD_TIMEOUT_S = 600.0


def deploy(connection: Connection, kinds: Collection[str]) -> str:
    """Bring the package to the host for these roles; the folder there, for ``PYTHONPATH``.

    The link role gets pyroute2 beside it (pure Python, its licences included). What is there
    already is not sent again. Raises HostError.
    """
    archive = build_archive("link" in kinds)
    name = f"code/{hashlib.sha256(archive).hexdigest()}"
    with connection.uploading:
        return _present(connection, name) or connection.put(
            archive, name, unpack=True, timeout_s=UPLOAD_TIMEOUT_S
        )


def send_artefact(
    connection: Connection, path: Path, sha256: str, progress: Progress | None = None
) -> str:
    """Bring the model archive to the host once; its path there.

    ``progress`` is told (bytes sent, bytes in all). Raises HostError when it arrives damaged.
    """
    name = f"models/{sha256}{path.suffix}"
    with connection.uploading:
        return _present(connection, name) or connection.put(
            path.read_bytes(), name, timeout_s=UPLOAD_TIMEOUT_S, progress=progress
        )


def _present(connection: Connection, name: str) -> str | None:
    found: dict[str, str] = json.loads(connection.script("store", "have", name))
    return found.get(name)


@lru_cache(maxsize=2)
def build_archive(with_pyroute2: bool) -> bytes:
    """A tar.gz of the same bytes for the same sources: sorted, no times, no owners."""
    members = dict(_package_files())
    if with_pyroute2:
        members |= dict(_pyroute2_files())
    raw = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in sorted(members):
            data = members[name].read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    return raw.getvalue()


def _package_files() -> Iterator[tuple[str, Path]]:
    package = Path(testbed.__file__).parent
    for path in package.rglob("*.py"):
        inside = path.relative_to(package)
        if inside.parts[0] not in ORCHESTRATOR_ONLY:
            yield f"testbed/{inside.as_posix()}", path


def _pyroute2_files() -> Iterator[tuple[str, Path]]:
    spec = importlib.util.find_spec("pyroute2")
    assert spec is not None, "a pinned dependency of the package"
    assert spec.origin is not None, "pyroute2 is a plain package"
    package = Path(spec.origin).parent
    for path in package.rglob("*.py"):
        yield f"pyroute2/{path.relative_to(package).as_posix()}", path
    for file in importlib.metadata.files("pyroute2") or ():
        if file.parts[0].endswith(".dist-info") and "LICENSE" in file.name:
            yield file.as_posix(), Path(str(file.locate()))
