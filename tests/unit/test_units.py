"""Quantities are parsed strictly and mean what they say."""

from __future__ import annotations

import pytest

from testbed import framing
from testbed.units import (
    format_duration,
    format_rate,
    format_size,
    parse_duration_ns,
    parse_rate_bps,
    parse_size_bytes,
)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_rate_bps, "20mbit", 20_000_000),
        (parse_rate_bps, "1.5 Mbit", 1_500_000),
        (parse_rate_bps, "300kbit", 300_000),
        (parse_duration_ns, "100ms", 100_000_000),
        (parse_duration_ns, "2min", 120 * 10**9),
        (parse_size_bytes, "40kB", 40_000),
        (parse_size_bytes, "64KiB", 65_536),
    ],
)
def test_accepts(parse, text, value) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_rate_bps, "20 mbps!"),
        (parse_rate_bps, "20mbps"),  # tc reads this as megabytes
        (parse_rate_bps, "20"),
        (parse_rate_bps, 20),
        (parse_rate_bps, "-5mbit"),
        (parse_duration_ns, "100"),
        (parse_duration_ns, "5 fortnights"),
        (parse_size_bytes, "12mbit"),
        (parse_rate_bps, "nan"),
        (parse_rate_bps, "1e9bit"),
        (parse_rate_bps, "9" * 400 + "gbit"),  # inf as a float
        (parse_duration_ns, "99999999999h"),
    ],
)
def test_refuses_and_shows_an_example(parse, text) -> None:
    with pytest.raises(ValueError, match="such as"):
        parse(text)


def test_people_see_three_digits() -> None:
    assert format_rate(12_345_678) == "12.3 Mbit/s"
    assert format_duration(83_456_789) == "83.5 ms"
    assert format_size(57_344) == "57.3 kB"


def test_class_rate_counts_the_link_header() -> None:
    assert framing.class_rate_bps(1_500_000) == 1_514_000


def test_ip_bytes_of_full_and_partial_segments() -> None:
    assert framing.ip_bytes(1448) == 1500
    assert framing.ip_bytes(1449) == 1449 + 2 * 52
    assert framing.ip_bytes(0) == 0


def test_serialisation_leaves_the_burst_out() -> None:
    # 100 segments at 12 Mbit/s of IP bytes: 150 kB less the 7.5 kB that leave at once = 95 ms.
    assert framing.serialisation_ns(144_800, 12_000_000) == 95_000_000
    assert framing.serialisation_ns(5_000, 12_000_000) == 0
