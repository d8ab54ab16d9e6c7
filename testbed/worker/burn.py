"""One busy thread of the load role, a process: ``python -m testbed.worker.burn cpu|memory|gpu``.

It reads levels (a share of time, one a line) from stdin, prints the nanoseconds it was busy in each
period, and ends with its stdin. Standard library, and torch for ``gpu`` alone.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from time import monotonic_ns, thread_time_ns

_PERIOD_NS = 20_000_000
# A period that began this late is not caught up with: the processor was somebody else's.
_SLIP_NS = 5 * _PERIOD_NS
_COPY_BYTES, _SPACE_BYTES = 2 << 20, 256 << 20

Clock = Callable[[], int]
Work = Callable[[], object]


def cpu() -> tuple[Clock, Work]:
    """Arithmetic that stays in the first cache; busy is processor time."""
    return thread_time_ns, lambda: sum(range(2000))


def memory() -> tuple[Clock, Work]:
    """Copies through far more than any cache holds; busy is processor time."""
    space, at = memoryview(bytearray(_SPACE_BYTES)), 0

    def work() -> None:
        nonlocal at
        at = (at + 2 * _COPY_BYTES) % (_SPACE_BYTES - 2 * _COPY_BYTES)
        space[at : at + _COPY_BYTES] = space[at + _COPY_BYTES : at + 2 * _COPY_BYTES]

    return thread_time_ns, work


def gpu() -> tuple[Clock, Work]:
    """Products of matrices, one finished before the next; busy is time."""
    import torch

    matrix = torch.randn(1024, 1024, device="cuda")

    def work() -> None:
        matrix.mm(matrix)
        torch.cuda.synchronize()

    return monotonic_ns, work


def burn(clock: Clock, work: Work, source: int, report: Callable[[int], object]) -> None:
    """Be busy for the last level's share of each period, until the source ends."""
    level, next_ns = 0.0, monotonic_ns()
    while True:
        wait_s = None if level == 0 else max(0, next_ns - monotonic_ns()) / 1e9
        if select.select([source], [], [], wait_s)[0]:
            lines = os.read(source, 4096).split()
            if not lines:
                return
            level = float(lines[-1])
            continue
        now_ns = monotonic_ns()
        next_ns = (next_ns if now_ns - next_ns < _SLIP_NS else now_ns) + _PERIOD_NS
        begun, wanted = clock(), round(level * _PERIOD_NS)
        while (busy := clock() - begun) < wanted:
            work()
        report(busy)


def main(kind: str) -> int:
    """Burn one resource; the exit status."""
    clock, work = {"cpu": cpu, "memory": memory, "gpu": gpu}[kind]()
    print("ready", flush=True)
    burn(clock, work, sys.stdin.fileno(), lambda busy_ns: print(busy_ns, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
