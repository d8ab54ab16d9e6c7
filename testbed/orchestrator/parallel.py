"""Ask several hosts at once and keep every host's outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from testbed.errors import GroupError

Result = TypeVar("Result")


def each(what: str, work: Mapping[str, Callable[[], Result]]) -> dict[str, Result]:
    """Run every callable in a thread of its own; results by name.

    Raises the only error as it is when one of one failed, else GroupError with every outcome.
    An interrupt waits for what is under way: each callable has a bound of its own.
    """
    if not work:
        return {}
    with ThreadPoolExecutor(max_workers=len(work)) as pool:
        futures = {name: pool.submit(call) for name, call in work.items()}
    outcomes = {name: future.exception() for name, future in futures.items()}
    failed = [error for error in outcomes.values() if error is not None]
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise GroupError(what, outcomes)
    return {name: future.result() for name, future in futures.items()}
