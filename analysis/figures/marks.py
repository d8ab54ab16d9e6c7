"""Where the marks of a logarithmic axis stand."""

from __future__ import annotations

from math import ceil, floor, log10

from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator

_FEWEST = 3
# Of a decade, the finest first.
_MULTIPLES = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))


def mark_log(axis: Axis, most: int = 10) -> None:
    """Mark an axis whose limits are final: plain numbers, no minor marks."""
    low, high = sorted(axis.get_view_interval())
    marks = log_marks(low, high, most)
    axis.set_ticks(marks, [f"{mark:g}" for mark in marks])
    axis.set_ticks([], minor=True)


def log_marks(low: float, high: float, most: int = 10) -> list[float]:
    """Round numbers from ``low`` to ``high`` (above 0), three at least and ``most`` if it can be.

    Figures of a decade where the axis holds enough of them, else numbers evenly apart: on so short
    a stretch a logarithm is nearly a straight line. Of many decades every second or third.
    """
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    choices = [
        [m * 10.0**d for d in decades for m in multiples if low <= m * 10.0**d <= high]
        for multiples in _MULTIPLES
    ]
    enough = [marks for marks in choices if len(marks) >= _FEWEST]
    for marks in enough:
        if len(marks) <= most:
            return marks
    if enough:  # the fewest are too many: over decades some are left out, else they are borne with
        marks = enough[-1]
        return marks[:: ceil(len(marks) / most)] if marks is choices[-1] else marks
    even = MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(mark) for mark in even if low <= mark <= high]
