"""What a set-up leaves is out of the collector's way, and gone before the next one."""

from __future__ import annotations

import gc
import weakref

from testbed.worker import heap


class Part:
    """Refers to itself, as a traced module does."""

    def __init__(self) -> None:
        self.itself = self


def test_what_is_settled_is_collected_only_when_released() -> None:
    part = Part()
    alive = weakref.ref(part)
    heap.settle()
    try:
        del part
        gc.collect()
        assert alive() is not None  # nobody walks it before each run
    finally:
        heap.release()
    assert alive() is None


def test_no_query_waits_for_a_collection() -> None:
    assert gc.isenabled()
    with heap.no_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
