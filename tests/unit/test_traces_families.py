"""Each family's units and traps, on tiny files made by hand in its layout."""

from __future__ import annotations

import pytest

from testbed.errors import UserError
from tests.unit.trace_files import (
    FCC_HEADER,
    GHENT,
    HSDPA,
    LUMOS_HEADER,
    PUFFER_HEADER,
    RECOGNISED,
    RULER,
    UCC_4G_HEADER,
    UCC_5G_HEADER,
    S,
    fcc,
    iperf3,
    lumos,
    puffer,
    read,
    second,
    steps,
    ucc_4g,
    ucc_5g,
)


def test_hsdpa_counts_bytes_over_the_interval_that_a_line_ends(tmp_path) -> None:
    found = read(tmp_path, HSDPA)
    assert steps(found, "down") == [(0, 1, 248456 * 8 / 1e6), (1, 2, 1.0)]


def test_hsdpa_conserves_bytes_where_clock_and_length_differ(tmp_path) -> None:
    # The clock advances by 1004 ms, the second line says 990: it begins where the first ended.
    text = "1289406399 1000 59 10 1000 1000\n1289406400 2004 59 10 125500 990\n"
    assert steps(read(tmp_path, text), "down")[1] == (1, 2.004, 1.0)


def test_hsdpa_going_back_in_time_is_refused_or_left_out(tmp_path) -> None:
    text = HSDPA + "1289406300 450893 59.8 10.7 125000 1000\n"
    with pytest.raises(UserError, match=r"original:3: expected an interval after .*'450893 ms'"):
        read(tmp_path, text)
    found = read(tmp_path, text, skip_bad=True)
    assert found.trace.duration_ns == 2 * S
    assert found.sidecar["skipped_lines"] == 1


@pytest.mark.parametrize(
    ("gaps", "filled"), [("hold", [(0, 3, 1.0), (3, 4, 2.0)]),
                         ("zero", [(0, 1, 1.0), (1, 3, 0.0), (3, 4, 2.0)])],
)  # fmt: skip
def test_gaps_hold_or_are_zero_and_are_counted(tmp_path, gaps, filled) -> None:
    text = "1289406399 1000 59 10 125000 1000\n1289406402 4000 59 10 250000 1000\n"
    found = read(tmp_path, text, gaps=gaps)
    assert steps(found, "down") == filled
    told = {"policy": gaps, "count": 1, "total_ns": 2 * S, "longest_ns": 2 * S}
    assert found.sidecar["gaps"] == told
    assert read(tmp_path, text).sidecar["gaps"]["policy"] == "hold"
    with pytest.raises(UserError, match=r"original:2: expected no gap, got one of 2 s"):
        read(tmp_path, text, gaps="refuse")


def test_ghent_is_told_by_its_times_in_ms_and_reads_padded_numbers(tmp_path) -> None:
    found = read(tmp_path, GHENT)
    assert steps(found, "down") == [(0, 0.999, 20.02002), (0.999, 1.999, 10.0)]


def test_ucc_averages_rows_of_one_second_and_is_in_kbit(tmp_path) -> None:
    rows = [ucc_5g("04", "532905"), ucc_5g("05", "1000"), ucc_5g("05", "3000"), ucc_5g("06", "0")]
    found = read(tmp_path, UCC_5G_HEADER + "".join(rows))
    assert steps(found, "down") == [(0, 1, 532.905), (1, 2, 2.0), (2, 3, 0.0)]


def test_ucc_idle_and_missing_rows_are_gaps_and_no_outage(tmp_path) -> None:
    rows = [
        ucc_5g("01", "0", "I"), ucc_5g("04", "1000"), ucc_5g("05", "0", "I"), ucc_5g("06", "-"),
        ucc_5g("07", "4000", "VD"), ucc_5g("08", "0", "V"),
    ]  # fmt: skip
    found = read(tmp_path, UCC_5G_HEADER + "".join(rows))
    assert steps(found, "down") == [(0, 3, 1.0), (3, 4, 4.0)]
    assert found.sidecar["gaps"]["total_ns"] == 2 * S
    assert steps(read(tmp_path, UCC_5G_HEADER + "".join(rows), gaps="zero"), "down")[1][2] == 0


def test_ucc_a_second_missed_by_jitter_is_no_gap_but_two_are(tmp_path) -> None:
    rows = [ucc_5g("04", "1000"), ucc_5g("06", "2000"), ucc_5g("09", "3000")]
    found = read(tmp_path, UCC_5G_HEADER + "".join(rows), gaps="zero")
    assert steps(found, "down") == [(0, 2, 1.0), (2, 3, 2.0), (3, 5, 0.0), (5, 6, 3.0)]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (ucc_5g("03", "5"), "expected a time after that of the line before"),
        (ucc_5g("05", "5").replace("2019.12.16", "16/12/19"), "a time such as 2019.12.16_13.40.04"),
        (ucc_5g("05", "5", "X"), "expected State D, VD, I, V, got 'X'"),
        (ucc_5g("05", "many"), "expected kbit/s, got 'many'"),
        (ucc_5g("05", "5").rstrip() + ",9\n", "expected 26 values"),
    ],
)
def test_ucc_malformed_rows_are_refused_by_line(tmp_path, row, said) -> None:
    text = UCC_5G_HEADER + ucc_5g("04", "1000") + row + ucc_5g("06", "3000")
    with pytest.raises(UserError, match=r"original:3: ") as error:
        read(tmp_path, text)
    assert said in str(error.value)
    assert read(tmp_path, text, skip_bad=True).sidecar["skipped_lines"] == 1


def test_ucc_4g_is_the_same_but_for_its_columns(tmp_path) -> None:
    found = read(tmp_path, UCC_4G_HEADER + ucc_4g("03", "5178") + ucc_4g("04", "1000"))
    assert steps(found, "down") == [(0, 1, 5.178), (1, 2, 1.0)]


def test_lumos_picks_one_run_in_order_of_its_seconds(tmp_path) -> None:
    rows = [
        lumos(1, "2", "200"), lumos(1, "1", "1810.5"), lumos(2, "1", "9"), lumos(1, "4", "nan"),
        lumos(1, "5", "50"), lumos(1, "1", "7", mode="driving"),
    ]  # fmt: skip
    text = LUMOS_HEADER + "".join(rows)
    with pytest.raises(UserError, match=r"got several, such as run_num=1 .* and run_num=2"):
        read(tmp_path, text)
    found = read(tmp_path, text, select={"run_num": "1", "mobility_mode": "walking"}, gaps="zero")
    assert steps(found, "down") == [(0, 1, 1810.5), (1, 2, 200), (2, 4, 0), (4, 5, 50)]
    assert found.trace.source == "original run_num=1 mobility_mode=walking trajectory_direction=CW"
    with pytest.raises(UserError, match=r"expected run_num=7, got run_num=1 mobility_mode=walking"):
        read(tmp_path, text, select={"run_num": "7"})


def test_lumos_a_second_told_twice_is_malformed(tmp_path) -> None:
    with pytest.raises(UserError, match="original:3: expected a whole number of seconds, each"):
        read(tmp_path, LUMOS_HEADER + lumos(1, "1", "5") + lumos(1, "1", "6"))


def test_nuwins_run_of_tenths_in_mbit(tmp_path) -> None:
    text = f"\n{RULER}Run 1\n46.5,0\n{RULER}Run 2\n1,2,3\n{RULER}"
    with pytest.raises(UserError, match="such as run=1 pair=1 and run=2 pair=1"):
        read(tmp_path, text)
    found = read(tmp_path, text, select={"run": "2"})
    assert steps(found, "up") == [(0, 0.1, 1), (0.1, 0.2, 2), (0.2, 0.3, 3)]
    assert found.sidecar["selected"] == {"run": "2", "pair": "1"}


def test_nuwins_rows_in_pairs_are_times_and_samples(tmp_path) -> None:
    text = "Run 1\n18.777,18.877,19.2\n1,2,3\n0.0,0.1\n5,6\n"
    found = read(tmp_path, text, select={"pair": "1"}, gaps="zero")
    assert steps(found, "up") == [(0, 0.1, 1), (0.1, 0.2, 2), (0.2, 0.423, 0), (0.423, 0.523, 3)]
    assert steps(read(tmp_path, text, select={"pair": "2"}), "up") == [(0, 0.1, 5), (0.1, 0.2, 6)]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("Run 1\n1,x,3\n", 2, "expected Mbit/s, got 'x'"),
        ("Run 1\n1.9,1.3\n1,2\n", 3, "expected a time after that of the line before"),
        ("Run 1\n0.1,0.2\n1\n", 3, "expected 2 samples, as many as times"),
        ("Run 1\n1\n2\n3\n", 4, "expected a row of samples, or pairs"),
    ],
)
def test_nuwins_malformed_is_refused_by_line(tmp_path, text, line, said) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    assert f"original:{line}: {said}" in str(error.value)


def test_nuwins_a_bad_sample_keeps_its_place(tmp_path) -> None:
    found = read(tmp_path, "Run 1\n1,x,3\n", skip_bad=True, gaps="zero")
    assert steps(found, "up") == [(0, 0.1, 1), (0.1, 0.2, 0), (0.2, 0.3, 3)]


def test_nyu_units_may_change_from_line_to_line(tmp_path) -> None:
    text = "3.97,Mbits/sec\n512,Kbits/sec\n0,bits/sec\n"
    found = read(tmp_path, text, direction="up")
    assert steps(found, "up") == [(0, 1, 3.97), (1, 2, 0.512), (2, 3, 0)]


def test_nyu_last_line_cut_off_is_malformed(tmp_path) -> None:
    text = "3.97,Mbits/sec\n5.1"
    said = {"format": "nyu-mets", "direction": "up"}
    with pytest.raises(
        UserError, match=r"original:2: expected a value and one of bits/sec.*'5\.1'"
    ):
        read(tmp_path, text, **said)
    found = read(tmp_path, text, skip_bad=True, **said)
    assert found.trace.duration_ns == S
    assert found.sidecar["skipped_lines"] == 1


def test_fcc_strings_fetches_in_bytes_of_one_unit_and_target(tmp_path) -> None:
    rows = [fcc(1, 125000), fcc(2, 7), fcc(1, 0, ok=0), fcc(1, 250000), fcc(1, 9, target="b.org")]
    text = FCC_HEADER + "".join(rows)
    with pytest.raises(UserError, match=r"such as unit_id=1 target=www\.a\.com and unit_id=2"):
        read(tmp_path, text)
    said = {"select": {"unit_id": "1", "target": "www.a.com"}}
    assert steps(read(tmp_path, text, gaps="zero", **said), "down") == [
        (0, 5, 1.0), (5, 10, 0), (10, 15, 2.0),
    ]  # fmt: skip


def test_fcc_time_of_another_form_is_refused(tmp_path) -> None:
    row = fcc(1, 5).replace("2016-09-01 00:33:51", "1472690031")
    with pytest.raises(UserError, match="original:2: expected a time such as 2016-09-01 00:33:51"):
        read(tmp_path, FCC_HEADER + row)


def test_puffer_is_in_ns_and_bytes_and_has_many_sessions(tmp_path) -> None:
    t0 = 1_633_478_400_000_000_000
    rows = [
        puffer(t0, "a", 0, 125_000), puffer(t0 + S, "b", 0, 9), puffer(t0 + 2 * S, "a", 0, 250_000),
        puffer(t0 + 3 * S, "a", 1, 9),
    ]  # fmt: skip
    text = PUFFER_HEADER + "".join(rows)
    found = read(tmp_path, text, select={"session_id": "a", "index": "0"})
    assert steps(found, "down") == [(0, 2, 1.0), (2, 4, 2.0)]
    with pytest.raises(UserError, match="session_id=a index=0 and session_id=b index=0"):
        read(tmp_path, text)


def test_oboe_chunks_are_ms_and_kbit_with_gaps_between(tmp_path) -> None:
    found = read(tmp_path, RECOGNISED["oboe"][0], gaps="zero")
    assert steps(found, "down") == [
        (0, 4.389, 3.7388), (4.389, 4.502, 0), (4.502, 8.834, 3.7489),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("12 5\n90 6\n", 2, "the end of the chunk of the line before, at its rate"),
        ("12 5\n90 5\n95 5\n", 3, "a line with the chunk's end"),
        ("12 5\n90 5\n80 5\n99 5\n", 3, "a chunk that starts after the one before"),
        ("12 5\n90\n", 2, "two numbers, a time and a rate in kbit/s"),
    ],
)
def test_oboe_malformed_is_refused_by_line(tmp_path, text, line, said) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, text, format="oboe")
    assert f"original:{line}: expected {said}" in str(error.value)


def test_cooked_rate_is_of_the_time_before_its_line(tmp_path) -> None:
    found = read(tmp_path, "1.0 9\n2.0 532\n2.5 1.25\n", direction="down")
    assert steps(found, "down") == [(0, 1, 532), (1, 1.5, 1.25)]


def test_cooked_from_puffer_needs_its_unit_said(tmp_path) -> None:
    folder = tmp_path / "puffer_211017"
    folder.mkdir()
    text = "0 1\n1 2\n3 2\n"
    with pytest.raises(UserError, match="say --unit MB/s or --unit Mbit/s"):
        read(folder, text, direction="down")
    found = read(folder, text, direction="down", unit="MB/s")
    assert steps(found, "down")[0] == (0, 1, 16)


def test_cooked_time_that_stands_still_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="original:2: expected a time after that of the line"):
        read(tmp_path, "1 5\n1 6\n2 7\n", format="cooked", direction="down")


def test_iperf3_takes_bytes_of_the_sum_and_leaves_out_what_was_omitted(tmp_path) -> None:
    sums = [second(0, 1, omitted=True), second(0, 125_000), second(1, 250_000)]
    found = read(tmp_path, iperf3(sums), direction="up")
    assert steps(found, "up") == [(0, 1, 1.0), (1, 2, 2.0)]


def test_iperf3_interval_in_which_the_omitted_time_ends_is_left_out(tmp_path) -> None:
    # As iperf 3.12 writes it: the clock is set back within the interval, its bytes are all there.
    odd = {"start": 0.5, "end": 0.500035, "seconds": 1.0, "bytes": 3_145_728, "omitted": False}
    sums = [second(0, 1, omitted=True), odd, second(0, 125_000, start=0.500035, end=1.500035)]
    found = read(tmp_path, iperf3(sums), direction="up")
    assert steps(found, "up") == [(0, 1, 1.0)]


def test_iperf3_udp_sender_tells_nothing_of_the_link(tmp_path) -> None:
    with pytest.raises(UserError, match="got the UDP sender's"):
        read(tmp_path, iperf3([second(0, 5, sender=True)], "UDP"), direction="up")
    received = read(tmp_path, iperf3([second(0, 5, sender=False)], "UDP"), direction="up")
    assert received.trace.duration_ns == S


@pytest.mark.parametrize(
    ("sums", "said"),
    [
        (
            [{"start": 0, "end": 1, "seconds": 1}],
            r"a number of 0 or more as intervals\[0\].sum.bytes, got None",
        ),
        ([second(0, 5), second(0, 5)], r"intervals\[1\].sum.end after its start"),
        ([None], r"intervals\[0\].sum, got None"),
    ],
)
def test_iperf3_malformed_intervals_are_refused_by_line(tmp_path, sums, said) -> None:
    with pytest.raises(UserError, match=rf"original:\d+: expected {said}"):
        read(tmp_path, iperf3(sums), format="iperf3", direction="up")


def test_iperf3_cut_off_is_refused_by_line(tmp_path) -> None:
    with pytest.raises(UserError, match=r"original:2: expected JSON, got an error"):
        read(tmp_path, '{\n "start": ', format="iperf3", direction="up")
