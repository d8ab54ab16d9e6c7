"""The tree's numbers, by hand."""

import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed import framing
from testbed.errors import UserError
from testbed.link.netem import Gilbert, Netem, delay_table
from testbed.link.tree import Flow, Tree, format_handle, render_tc, tree_from_json


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


def test_netem_takes_the_leaf_with_room_for_what_is_under_way() -> None:
    netem = Netem(
        delay_ns=100_000_000, jitter_ns=10_000_000, distribution="normal", loss=0.01, seed=7
    )
    tree = Tree("eth1", 10_000_000, 100_000, peak_bps=20_000_000, netem=netem)
    # 66 packets of queue, and 110 ms of 20.19 Mbit/s: 183.3 packets of 1514 bytes.
    assert tree.leaf_packets == 66 + 184
    assert render_tc(tree)[2] == (
        "tc qdisc add dev eth1 parent 5d7b:1 handle 5d7c: netem limit 250 delay 100ms 10ms "
        "distribution normal loss random 1% rate 32000000000bit seed 7"
    )


def test_a_tree_of_the_wire_is_the_same_tree() -> None:
    netem = Netem(delay_ns=5_000_000, gilbert=Gilbert(0.01, 0.25))
    document = {
        "interface": "eth1",
        "rate_bps": 10**6,
        "queue_bytes": 10_000,
        "peak_bps": 2 * 10**6,
        "netem": json.loads(json.dumps(netem.to_json())),
        "flow": {"peer": "10.0.0.2", "ports": [7010], "peer_is_server": True},
        "ingress": True,
        "outage": "hold",
    }
    flow = Flow("10.0.0.2", (7010,), peer_is_server=True)
    expected = Tree("eth1", 10**6, 10_000, 2 * 10**6, netem, flow, ingress=True, outage="hold")
    assert tree_from_json(document) == expected
    assert tree_from_json({**document, "netem": Netem().to_json()}).netem is None


@pytest.mark.parametrize(
    ("peer_is_server", "ingress", "keys"),
    [
        # Offsets into the IPv4 header: 12 source, 16 destination, 20 both ports.
        (True, False, ("0x0a000002/0xffffffff+16", "0x00001b62/0x0000ffff+20")),
        (False, False, ("0x0a000002/0xffffffff+16", "0x1b620000/0xffff0000+20")),
        (True, True, ("0x0a000002/0xffffffff+12", "0x1b620000/0xffff0000+20")),
        (False, True, ("0x0a000002/0xffffffff+12", "0x00001b62/0x0000ffff+20")),
    ],
)
def test_a_flow_by_its_far_end_and_the_servers_port(
    peer_is_server: bool, ingress: bool, keys: tuple[str, str]
) -> None:
    assert Flow("10.0.0.2", (7010,), peer_is_server).u32_keys(ingress) == (keys,)


def test_at_ingress_the_tree_stands_on_an_interface_of_our_own() -> None:
    lines = render_tc(Tree("eth1", 10**6, 10_000, ingress=True))
    assert lines[0] == "ip link add ifb-of-eth1 up type ifb"
    assert lines[-1] == (
        "tc filter add dev eth1 parent ffff: protocol ip prio 1 u32 match u32 0 0 action mirred "
        "egress redirect dev ifb-of-eth1"
    )


@given(rate_bps=st.integers(8_000, 10**10), owed_ns=st.integers(1_000_000, 59 * 10**9))
def test_what_passes_while_held_owes_the_whole_hold_and_no_more(
    rate_bps: int, owed_ns: int
) -> None:
    tree = Tree("eth1", rate_bps, 0).held(owed_ns)
    for size in (60, 1514):
        weight = max(size + tree.overhead_bytes, tree.least_bytes)
        pays_ns = weight * 10**9 / tree.class_bytes_per_s
        assert owed_ns * (1 - 1 / tree.class_bytes_per_s) <= pays_ns <= owed_ns
    assert tree.with_rate(rate_bps).overhead_bytes == tree.with_rate(rate_bps).least_bytes == 0


def test_impossible_impairments_are_refused() -> None:
    with pytest.raises(UserError, match="jitter: expected at most the delay"):
        Netem(delay_ns=1, jitter_ns=2)
    with pytest.raises(UserError, match="reorder: needs a delay"):
        Netem(reorder=0.1)
    with pytest.raises(UserError, match="got both"):
        Netem(loss=0.1, gilbert=Gilbert(0.1, 0.1))
    with pytest.raises(UserError, match="outage: expected drop, hold, down, got 'off'"):
        Tree("eth1", 10**6, 0, outage="off")


def test_distribution_tables_have_the_moments_of_their_distribution() -> None:
    normal = [value / 8192 for value in delay_table("normal")]
    assert statistics.fmean(normal) == pytest.approx(0, abs=1e-6)
    assert statistics.pstdev(normal) == pytest.approx(1, rel=0.01)
    pareto = [value / 8192 for value in delay_table("pareto")]
    assert statistics.fmean(pareto) == pytest.approx(0, abs=0.05)
    assert pareto == sorted(pareto)
    assert delay_table("uniform") == ()


def test_gilbert_elliotts_mean() -> None:
    assert Gilbert(0.01, 0.24, 0.5, 0.1).mean == pytest.approx(0.04 * 0.5 + 0.96 * 0.1)
