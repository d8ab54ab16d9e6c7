from __future__ import annotations

import os
import threading

from testbed.link.realtime import PRIORITY, real_time


def scheduling() -> tuple[int, int]:
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority


def test_the_thread_has_precedence_while_it_lasts_and_only_then() -> None:
    before = scheduling()
    others: list[tuple[int, int]] = []
    with real_time() as permitted:
        inside = scheduling()
        thread = threading.Thread(target=lambda: others.append(scheduling()))
        thread.start()
        thread.join()
    assert scheduling() == before
    assert others == [before]
    if permitted:
        assert inside == (os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, PRIORITY)
    else:
        assert inside == before
