"""The tree's numbers, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed import framing
from testbed.errors import UserError
from testbed.link.tree import Tree, format_handle, render_tc, tree_from_json


def test_numbers_at_ten_megabit() -> None:
    tree = Tree("eth1", 10_000_000, 100_000)
    # 10 Mbit/s of IP bytes are 1.25 MB/s; with the 14 bytes of link header 1 261 666.7 B/s.
    assert tree.class_bytes_per_s == 1_261_667
    assert tree.class_bps == 10_093_336
    # 5 frames of 1514 B last 6000.0 µs at that rate, in whole microseconds 6000.
    assert tree.burst_us == 6000
    assert tree.burst_bytes == 7570
    assert tree.quantum_bytes == 60_000
    assert tree.queue_packets == 66
    assert tree.held_bytes == 99_924


def test_burst_at_a_gigabit_is_a_millisecond_and_not_cut() -> None:
    tree = Tree("eth1", 10**9, 100_000)
    assert framing.burst_bytes(10**9) == 125_000
    assert tree.burst_us == 991  # 990.75 µs at the class's rate, rounded up
    assert tree.burst_bytes == 125_031


def test_small_figures_are_lifted_to_what_works() -> None:
    tree = Tree("eth1", 64_000, 100)
    assert tree.quantum_bytes == 1514
    assert tree.queue_packets == 2
    assert tree.held_bytes == 3028


@given(rate_bps=st.integers(8_000, 40 * 10**9))
def test_never_less_rate_or_burst_than_framing_says(rate_bps: int) -> None:
    tree = Tree("eth1", rate_bps, 0)
    assert 0 <= tree.class_bps - framing.class_rate_bps(rate_bps) < 8
    excess = tree.burst_bytes - framing.burst_bytes(rate_bps)
    assert 0 <= excess <= tree.class_bytes_per_s / 10**6
    assert 1514 <= tree.quantum_bytes <= 60_000


def test_a_rate_below_the_floor_is_refused() -> None:
    with pytest.raises(UserError, match=r"eth1: rate: expected at least 8000 bit/s, got 0"):
        Tree("eth1", 10**6, 0).with_rate(0)


def test_unknown_and_missing_keys_are_refused() -> None:
    with pytest.raises(UserError, match=r"expected the keys .* got interface, loss"):
        tree_from_json({"interface": "eth1", "loss": 0.1})


def test_tc_notation() -> None:
    assert render_tc(Tree("eth1", 10_000_000, 100_000)) == (
        "tc qdisc add dev eth1 root handle 5d7b: htb default 0",
        "tc class add dev eth1 parent 5d7b: classid 5d7b:1 htb rate 10093336bit "
        "ceil 10093336bit burst 7570b cburst 7570b quantum 60000",
        "tc qdisc add dev eth1 parent 5d7b:1 handle 5d7c: pfifo limit 66",
        "tc filter add dev eth1 parent 5d7b: protocol ip prio 1 u32 match u32 0 0 flowid 5d7b:1",
    )


@pytest.mark.parametrize(
    ("handle", "text"), [(0xFFFFFFFF, "root"), (0, "0:"), (0x10000, "1:"), (0x8001000A, "8001:a")]
)
def test_handles(handle: int, text: str) -> None:
    assert format_handle(handle) == text
