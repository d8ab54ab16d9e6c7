"""Human quantities, parsed once at the border into integers of base units.

Inside the code a rate is an int of bits per second (``_bps``), a duration an int of
nanoseconds (``_ns``), a size an int of bytes (``_bytes``).
"""

from __future__ import annotations

import re
import reprlib

_NUMBER = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*$")

# Bits only: tc's "mbps" means megaBYTES, the commonest silent error of the field, so it is refused.
_RATE_BPS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_DURATION_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
_SIZE_BYTES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_BELOW = 2**63  # of base units: more than any experiment means, and a record's reader can hold it


def _parse(text: object, units: dict[str, int], what: str, example: str) -> int:
    match = _NUMBER.match(text) if isinstance(text, str) else None
    factor = units.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f'expected {what} such as "{example}", got {reprlib.repr(text)}')
    number = float(match.group(1)) * factor
    if number >= _BELOW:
        raise ValueError(f'expected {what} such as "{example}", got far more: {reprlib.repr(text)}')
    return round(number)


def parse_rate_bps(text: object) -> int:
    """A rate such as ``"20mbit"`` in bits per second; raises ValueError on anything else."""
    return _parse(text, _RATE_BPS, "a rate", "20mbit")


def parse_duration_ns(text: object) -> int:
    """A duration such as ``"100ms"`` in nanoseconds; raises ValueError on anything else."""
    return _parse(text, _DURATION_NS, "a duration", "100ms")


def parse_size_bytes(text: object) -> int:
    """A size such as ``"40kB"`` or ``"64KiB"`` in bytes; raises ValueError on anything else."""
    return _parse(text, _SIZE_BYTES, "a size", "40kB")


def format_rate(bps: float) -> str:
    """A rate with three significant digits, for people."""
    for name, factor in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bps >= factor:
            return f"{bps / factor:.3g} {name}"
    return f"{bps:.3g} bit/s"


def format_duration(ns: float) -> str:
    """A duration with three significant digits, for people."""
    for name, factor in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if abs(ns) >= factor:
            return f"{ns / factor:.3g} {name}"
    return f"{ns:.3g} ns"


def format_size(count_bytes: float) -> str:
    """A size with three significant digits, for people."""
    for name, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count_bytes >= factor:
            return f"{count_bytes / factor:.3g} {name}"
    return f"{count_bytes:.0f} B"
