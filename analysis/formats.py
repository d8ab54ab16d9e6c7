"""Numbers as people read them: three significant digits at most, no exponent, a real minus."""

from __future__ import annotations

from math import floor, isfinite, log10
from typing import Any, NamedTuple

ABSENT = "–"
NARROW = "\u00a0"  # a number and its unit stay on one line


class Cell(NamedTuple):
    """What a table's cell shows; ``aside`` is set smaller beside it (an interval)."""

    text: str
    aside: str = ""


def known(value: Any) -> bool:
    """Whether there is a number to show."""
    return value is not None and isfinite(value)


def number(value: Any, decimals: int | None = None) -> str:
    """A number with three significant digits, or with so many decimals."""
    if not known(value):
        return ABSENT
    places = decimals_of(value) if decimals is None else decimals
    text = f"{round(value, places):.{max(0, places)}f}"
    text = text.replace("-", "−")
    return text.removeprefix("−") if not text.strip("−0.") else text


def milliseconds(value: Any) -> str:
    """Milliseconds with three significant digits, and none beyond ten microseconds."""
    return number(value, min(2, decimals_of(value))) if known(value) else ABSENT


def decimals_of(value: float) -> int:
    """Decimals that leave three significant digits."""
    rounded = abs(float(f"{value:.3g}"))
    return 0 if rounded == 0 else min(6, 2 - floor(log10(rounded)))


def percent(share: Any) -> str:
    """A share as a percentage, whole from ten on, two significant digits below."""
    if not known(share):
        return ABSENT
    value = share * 100
    return f"{number(value, 0 if abs(value) >= 9.95 or value == 0 else 1)}{NARROW}%"


def ranged(value: Any, low: Any, high: Any) -> Cell:
    """A number with its interval, to no more decimals than the number."""
    if not known(value):
        return Cell(ABSENT)
    if not known(low):
        return Cell(number(value))
    ends = [number(end, min(decimals_of(value), decimals_of(end))) for end in (low, high)]
    return Cell(number(value), f"[{', '.join(ends)}]")


def percent_ranged(value: Any, low: Any, high: Any) -> Cell:
    """A percentage with its interval."""
    aside = f"[{percent(low)[:-2]}, {percent(high)[:-2]}]" if known(value) and known(low) else ""
    return Cell(percent(value), aside)


def yes_no(value: Any) -> str:
    """A truth as a word."""
    return "yes" if value else "no"
