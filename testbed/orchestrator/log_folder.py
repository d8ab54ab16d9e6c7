"""A temporary folder for the logs of a verb that has no campaign; none outlives its use."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import TestbedError

# Locked while whoever made the folder lives; a folder that is to stay has none.
_OWNED = "owned"


@contextmanager
def log_folder(verb: str) -> Iterator[Path]:
    """A temporary folder with ``logs`` in it; it stays where the error that ends it names it.

    Those that were left by a kill are removed first.
    """
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"testbed-{verb}-"))
    (folder / "logs").mkdir()
    told = ""
    lock = _lock(folder / "owning", os.O_CREAT)
    (folder / "owning").rename(folder / _OWNED)  # it is locked ever since it has that name
    try:
        yield folder
    except TestbedError as error:
        told = str(error)
        raise
    finally:
        if str(folder) in told:
            (folder / _OWNED).unlink()
        else:
            shutil.rmtree(folder)
        os.close(lock)


def _sweep() -> None:
    for owned in Path(tempfile.gettempdir()).glob(f"testbed-*/{_OWNED}"):
        try:
            if owned.parent.lstat().st_uid != os.geteuid():
                continue
            lock = _lock(owned)
        except OSError:  # it is in use, or gone by now
            continue
        shutil.rmtree(owned.parent, ignore_errors=True)
        os.close(lock)


def _lock(path: Path, flags: int = 0) -> int:
    """Raises BlockingIOError where somebody else holds it."""
    handle = os.open(path, os.O_RDWR | flags, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
