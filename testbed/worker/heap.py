"""When a worker's garbage is collected: between set-ups and between runs, never in a query."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def settle() -> None:
    """Collect, and leave what is alive out of later collections: it stays until the next set-up.

    Walking torch's and the model's objects before each run costs a slow device a third of a second.
    """
    gc.collect()
    gc.freeze()


def release() -> None:
    """Collect what the last set-up left, weights and all, before another takes as much again."""
    gc.unfreeze()
    gc.collect()


@contextmanager
def no_collection() -> Iterator[None]:
    """No garbage is collected before the end: a collection is no part of a query.

    Collect before: after ``go`` it would hold up the first query while the trace already runs.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
