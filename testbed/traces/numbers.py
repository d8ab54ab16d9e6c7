"""Numbers of trace files, read exactly and within what a time or a rate can be."""

from __future__ import annotations

import reprlib
from decimal import Decimal, InvalidOperation

# Unix times in ns are below; made an integer, 1e999999 would take a million digits.
_BELOW = Decimal(10) ** 19
_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 200


def parse_number(text: str) -> Decimal | None:
    """A number of 0 or more and below 10**19; None for anything else."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() and 0 <= value < _BELOW else None


def shown(value: object) -> str:
    """What was found, short enough for one line."""
    return _shown.repr(value)
