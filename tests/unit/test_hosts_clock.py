from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from testbed.hosts.clock import Exchange, estimate_offset

OFFSET_NS = -7_654_321_000

delays_ns = st.integers(0, 5_000_000)
paths = st.lists(st.tuples(delays_ns, delays_ns), min_size=1, max_size=80)


def exchanges(delays: list[tuple[int, int]]) -> list[Exchange]:
    """Exchanges with a host whose clock is OFFSET_NS from ours, by (way there, way back)."""
    made = []
    for i, (there_ns, back_ns) in enumerate(delays):
        sent_ns = 1_000_000_000 + i * 10_000_000
        answered_ns = sent_ns + there_ns + OFFSET_NS
        made.append(Exchange(sent_ns, answered_ns, sent_ns + there_ns + back_ns))
    return made


@given(paths)
def test_truth_lies_within_the_bound_however_lopsided_the_path(delays) -> None:
    offset = estimate_offset(exchanges(delays))
    assert abs(offset.offset_ns - OFFSET_NS) <= offset.bound_ns + 1
    assert offset.n == len(delays)


def test_only_the_quickest_tenth_counts() -> None:
    slow_and_lopsided = [(4_000_000, 100_000)] * 54
    quick = [(150_000, 150_000 + i) for i in range(6)]
    offset = estimate_offset(exchanges(slow_and_lopsided + quick))
    assert abs(offset.offset_ns - OFFSET_NS) <= 5
    assert offset.bound_ns == 150_003


def test_time_is_the_middle_of_the_measurement() -> None:
    made = exchanges([(0, 0), (0, 0), (0, 0)])
    assert estimate_offset(made).t_ns == made[1].sent_ns
