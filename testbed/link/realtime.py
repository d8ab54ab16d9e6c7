"""Precedence for the thread that paces a replay, where the host permits it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

PRIORITY = 1  # the least real-time one: enough to come before every ordinary process


@contextmanager
def real_time() -> Iterator[bool]:
    """Run the calling thread under ``SCHED_FIFO``, as before on leaving; whether it is permitted.

    It sleeps nearly all the time, so it takes nothing from anybody; without it, a change waits
    until the scheduler's turn comes on a busy host.
    """
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)  # 0: this thread
    try:
        wanted = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, wanted, os.sched_param(PRIORITY))
    except OSError:  # not root, or a control group without real-time share
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, policy, parameter)
