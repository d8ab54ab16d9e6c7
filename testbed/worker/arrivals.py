"""When queries are due: in a closed loop, at a camera's rhythm, or at random. Pure."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Literal

Kind = Literal["closed", "periodic", "poisson"]


@dataclass(frozen=True)
class ArrivalRule:
    """``kind`` of arrivals, their mean ``interval_ns``, and what becomes of those that wait.

    With ``newest`` the newest due wins and the older ones are dropped, as a camera's frames are;
    with ``queue`` they are served in order. A closed loop has neither interval nor queue.
    """

    kind: Kind = "closed"
    interval_ns: int = 0
    waiting: Literal["newest", "queue"] = "newest"


class Arrivals:
    """The due times of one run, from its beginning; times are one clock's, given by the caller."""

    def __init__(self, rule: ArrivalRule, seed: int, begun_ns: int) -> None:
        self._rule = rule
        self._rng = random.Random(seed)
        self._pending: deque[int] = deque()
        self._next_ns = begun_ns
        self.arrived = self.most_waiting = 0

    def wait_ns(self, now_ns: int) -> int:
        """How long until a query is due; 0 where one is."""
        if self._rule.kind == "closed":
            return 0
        self._arrive(now_ns)
        return 0 if self._pending else self._next_ns - now_ns

    def take(self, now_ns: int) -> tuple[int | None, list[int]]:
        """(due time of the query to begin now, due times of those dropped for it).

        Only when :meth:`wait_ns` is 0. In a closed loop a query is due when it begins: None.
        """
        if self._rule.kind == "closed":
            self.arrived += 1
            return None, []
        self._arrive(now_ns)
        dropped = []
        if self._rule.waiting == "newest":
            dropped = [self._pending.popleft() for _ in range(len(self._pending) - 1)]
        return self._pending.popleft(), dropped

    def rest(self, end_ns: int) -> list[int]:
        """Due times up to the end that never began."""
        if self._rule.kind != "closed":
            self._arrive(end_ns)
        rest, self._pending = list(self._pending), deque()
        return rest

    def _arrive(self, now_ns: int) -> None:
        while self._next_ns <= now_ns:
            self._pending.append(self._next_ns)
            self.arrived += 1
            self._next_ns += self._gap_ns()
        self.most_waiting = max(self.most_waiting, len(self._pending))

    def _gap_ns(self) -> int:
        if self._rule.kind == "poisson":
            return max(1, round(self._rng.expovariate(1 / self._rule.interval_ns)))
        return self._rule.interval_ns
