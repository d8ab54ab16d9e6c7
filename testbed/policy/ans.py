"""Autodidactic Neurosurgeon: a linear bandit that needs no profile of the server."""

from __future__ import annotations

from math import sqrt

from testbed.model.table import LOCAL
from testbed.policy.latency import Candidate
from testbed.policy.protocol import Outcome, Policy, State

_SIZE = 3
_MS = 1e6
Vector = tuple[float, float, float]


class Ans(Policy):
    """µLinUCB of Zhang, Chen, Xu (Autodidactic Neurosurgeon, WWW 2021).

    The device's own times are known. All the rest (link, queue, server) is one unknown, linear
    in what is left to do and to send: ``θ · (1, share of the work left, payload)``, learnt by ridge
    regression from end-to-end times alone. It takes the least lower confidence bound. ``local``
    teaches nothing about θ, so while it is best another split is tried every ``FORCED`` queries.
    Older samples fade by ``MEMORY`` a sample, because the link changes.
    """

    ALPHA = 20.0  # ms: width of the confidence bound, about a queue's jitter
    RIDGE = 0.1
    MEMORY = 0.9
    FORCED = 10

    def __init__(self) -> None:
        self._a = [[self.RIDGE if i == j else 0.0 for j in range(_SIZE)] for i in range(_SIZE)]
        self._b = [0.0] * _SIZE
        self._contexts: dict[str, tuple[Vector, int]] = {}
        self._since_remote = 0

    def decide(self, state: State) -> str:
        """The candidate with the least optimistic latency."""
        if not self._contexts:
            self._contexts = _contexts(state.candidates)
        inverse = _inverse(self._a)
        theta = _times(inverse, self._b)
        bounds = {}
        for split, (x, device_ns) in self._contexts.items():
            width = sqrt(max(0.0, _dot(x, _times(inverse, x))))
            remote_ms = 0.0 if split == LOCAL else _dot(theta, x) - self.ALPHA * width
            bounds[split] = device_ns / _MS + max(0.0, remote_ms)
        forced = self._since_remote >= self.FORCED
        allowed = [s for s in bounds if s != LOCAL or not forced] or [LOCAL]
        split = min(allowed, key=lambda s: (bounds[s], self._contexts[s][1]))
        self._since_remote = self._since_remote + 1 if split == LOCAL else 0
        return split

    def observe(self, outcome: Outcome) -> None:
        """Regress on what the query took beyond the device's own work."""
        known = self._contexts.get(outcome.split)
        if known is None or outcome.split == LOCAL or outcome.kind == "probe":
            return
        x, device_ns = known
        remote_ms = max(0, outcome.e2e_ns - device_ns) / _MS
        for i in range(_SIZE):
            for j in range(_SIZE):
                fresh = self.RIDGE * (1 - self.MEMORY) if i == j else 0.0
                self._a[i][j] = self.MEMORY * self._a[i][j] + fresh + x[i] * x[j]
            self._b[i] = self.MEMORY * self._b[i] + x[i] * remote_ms


def _contexts(candidates: tuple[Candidate, ...]) -> dict[str, tuple[Vector, int]]:
    """Of each split: (1, share of the device's work left, payload), and its device time."""
    whole_ns = max((c.head_ns for c in candidates if c.split == LOCAL), default=0) or 1
    most = max((c.bytes_up for c in candidates), default=0) or 1
    return {
        c.split: (
            (1.0, max(0.0, 1 - c.head_ns / whole_ns), c.bytes_up / most),
            c.head_ns + c.encode_ns,
        )
        for c in candidates
    }


def _dot(a: list[float] | Vector, b: list[float] | Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _times(matrix: list[list[float]], x: list[float] | Vector) -> list[float]:
    return [_dot(row, x) for row in matrix]


def _inverse(m: list[list[float]]) -> list[list[float]]:
    """Of a symmetric positive 3 × 3 matrix, by cofactors."""
    (a, b, c), (_, d, e), (_, _, f) = m
    cofactors = [
        [d * f - e * e, c * e - b * f, b * e - c * d],
        [c * e - b * f, a * f - c * c, b * c - a * e],
        [b * e - c * d, b * c - a * e, a * d - b * b],
    ]
    determinant = a * cofactors[0][0] + b * cofactors[0][1] + c * cofactors[0][2]
    return [[value / determinant for value in row] for row in cofactors]
