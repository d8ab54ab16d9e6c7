"""Neurosurgeon: times regressed on the layers' sizes, in place of each candidate's own profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from testbed.model.table import LOCAL, OFFLOAD, SplitTable
from testbed.policy.latency import Candidate
from testbed.policy.predicting import least
from testbed.policy.protocol import Policy, State

# (blocks, activation elements in millions) that lie before a cut.
Size = tuple[float, float]


def sizes_before(table: SplitTable) -> dict[str, Size]:
    """What the head of every split computes: its blocks, and the elements they give out."""
    found, blocks, elements = {}, 0.0, 0.0
    for point in table.points:
        if point.split != OFFLOAD:  # after the last block comes the classifier
            blocks += 1
            elements += point.elements / 1e6
        found[point.split] = (blocks, elements)
    return found


def regress(candidates: tuple[Candidate, ...], sizes: Mapping[str, Size]) -> tuple[Candidate, ...]:
    """The candidates with head and tail times that the *other* candidates' times predict.

    ``time = a · blocks + b · elements``, least squares through the origin, one fit for the device
    and one for the server (Kang et al., Neurosurgeon, ASPLOS 2017, fits one a layer type). A
    candidate's own measurement is left out of its fit; where too few others are left, all count.
    """
    known = [c for c in candidates if c.split in sizes]
    whole = sizes.get(LOCAL, (0.0, 0.0))

    def after(split: str) -> Size:
        return (whole[0] - sizes[split][0], whole[1] - sizes[split][1])

    made = []
    for candidate in candidates:
        if candidate.split not in sizes:
            made.append(candidate)
            continue
        others = [c for c in known if c.split != candidate.split]
        head = _fit([(sizes[c.split], c.head_ns) for c in others])
        tail = _fit([(after(c.split), c.tail_ns) for c in others])
        own, rest = sizes[candidate.split], after(candidate.split)
        head_ns, tail_ns = _apply(head, own), _apply(tail, rest)
        made.append(replace(candidate, head_ns=head_ns, tail_ns=tail_ns))
    return tuple(made)


def _apply(fit: tuple[float, float], size: Size) -> int:
    return max(0, round(fit[0] * size[0] + fit[1] * size[1]))


def _fit(points: list[tuple[Size, int]]) -> tuple[float, float]:
    """Non-negative least squares of two coefficients: the inner solution, else the better edge."""
    xx = sum(x * x for (x, _), _ in points)
    yy = sum(y * y for (_, y), _ in points)
    xy = sum(x * y for (x, y), _ in points)
    xt = sum(x * t for (x, _), t in points)
    yt = sum(y * t for (_, y), t in points)
    determinant = xx * yy - xy * xy
    if determinant > 1e-9 * xx * yy:
        a, b = (xt * yy - yt * xy) / determinant, (yt * xx - xt * xy) / determinant
        if a >= 0 and b >= 0:
            return a, b
    edges = [(xt / xx if xx else 0.0, 0.0), (0.0, yt / yy if yy else 0.0)]
    return min(edges, key=lambda e: sum((t - e[0] * x - e[1] * y) ** 2 for (x, y), t in points))


class Neurosurgeon(Policy):
    """As ``dynamic``, on regressed times (Kang et al., ASPLOS 2017)."""

    uses_rate = True

    def __init__(self, sizes: Mapping[str, Size]) -> None:
        self._sizes = sizes
        self._candidates: tuple[Candidate, ...] = ()

    def decide(self, state: State) -> str:
        """The argmin, or ``local`` while there is no rate estimate at all."""
        if state.rate_bps is None:
            return LOCAL
        if not self._candidates:
            self._candidates = regress(state.candidates, self._sizes)
        return least(self._candidates, state, state.rate_bps)[0]
