"""Keep content-addressed files under the host's cache folder, whole or not at all.

``store.py have NAME...`` prints which are there; ``store.py file|folder NAME SHA256`` takes the
bytes from stdin. A name is relative to ``$XDG_CACHE_HOME/testbed`` or absolute.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile

ROOT = os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"),
    "testbed",
)
BLOCK_BYTES = 1 << 20


def receive(name: str, sha256: str, folder: bool) -> str:
    """Store stdin under the name; the path. Ends the script with one line when it is damaged."""
    path = os.path.join(ROOT, os.path.expanduser(name))
    parent = os.path.dirname(path)
    os.makedirs(parent, mode=0o700, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".incoming-", dir=parent)
    try:
        archive = os.path.join(temporary, "archive")
        digest = hashlib.sha256()
        with open(archive, "wb") as sink:
            for block in iter(lambda: sys.stdin.buffer.read(BLOCK_BYTES), b""):
                digest.update(block)
                sink.write(block)
            sink.flush()
            os.fsync(sink.fileno())
        if digest.hexdigest() != sha256:
            got = digest.hexdigest()
            sys.exit(f"{name} arrived damaged: expected sha256 {sha256}, got {got}; try again")
        if folder:
            unpacked = os.path.join(temporary, "unpacked")
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked)
            publish(unpacked, path)
        else:
            os.replace(archive, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def publish(unpacked: str, path: str) -> None:
    """Rename into place; another orchestrator may have put the same content there first."""
    try:
        os.rename(unpacked, path)
    except OSError:
        if not os.path.isdir(path):
            raise


if __name__ == "__main__":
    if sys.argv[1] == "have":
        names = {name: os.path.join(ROOT, name) for name in sys.argv[2:]}
        print(json.dumps({name: path for name, path in names.items() if os.path.exists(path)}))
    else:
        print(receive(sys.argv[2], sys.argv[3], sys.argv[1] == "folder"))
