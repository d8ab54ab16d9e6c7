from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import UserError
from testbed.traces.canonical import save_trace
from testbed.traces.formats import load_trace
from testbed.traces.trace import BandwidthTrace

S, MS = 10**9, 10**6


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_with_end_marker_comments_and_both_directions(tmp_path) -> None:
    text = "# source: a drive\n# author: me\n\nt_s,up_bps,down_bps\n0,1e6,2000000\n0.25,0,3\n2,,\n"
    trace = load_trace(written(tmp_path, "a.csv", text))
    assert trace == BandwidthTrace((0, S // 4), (1_000_000, 0), (2_000_000, 3), 2 * S, "a drive")


def test_csv_without_end_marker_holds_the_last_step_as_long_as_the_one_before(tmp_path) -> None:
    trace = load_trace(written(tmp_path, "a.csv", "t_s,down_bps\r\n0,1\r\n1,2\r\n1.5,3\r\n"))
    assert trace == BandwidthTrace((0, S, 3 * S // 2), None, (1, 2, 3), 2 * S, "a.csv")


@given(
    widths=st.lists(st.integers(1, 10**12), min_size=1, max_size=8),
    rates=st.lists(st.integers(0, 10**11), min_size=16, max_size=16),
    sides=st.sampled_from([(True, True), (True, False), (False, True)]),
)
def test_saved_reads_back_equal(tmp_path_factory, widths, rates, sides) -> None:
    n = len(widths)
    up, down = (tuple(rates[i * 8 : i * 8 + n]) if there else None for i, there in enumerate(sides))
    times = tuple(sum(widths[:i]) for i in range(n))
    trace = BandwidthTrace(times, up, down, sum(widths), "made: here, twice")
    path = tmp_path_factory.mktemp("trace") / "t.csv"
    save_trace(trace, path)
    assert load_trace(path) == trace


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "the header t_s"),
        ("time,up_bps\n0,1\n", 1, "the header t_s"),
        ("t_s,up_mbps\n0,1\n", 1, "the header t_s"),
        ("t_s,up_bps,up_bps\n0,1,1\n1,,\n", 1, "each rate once"),
        ("t_s,up_bps\n", 2, "the end of the file"),
        ("t_s,up_bps\n0,1\n", 2, "end marker"),
        ("t_s,up_bps\n1,1\n2,\n", 2, "the first time 0"),
        ("# x\nt_s,up_bps\n0,1\n1,2\n1,3\n", 5, "a time in s after 1"),
        ("t_s,up_bps\n0,1\n1576800000,3\n", 3, "a time in s after 0"),
        ("t_s,up_bps\n0,-1\n1,\n", 2, "0 or more"),
        ("t_s,up_bps\n0,nan\n1,\n", 2, "0 or more"),
        ("t_s,up_bps\n0,20mbit\n1,\n", 2, "'20mbit'"),
        ("t_s,up_bps\n0,1\n1,\n2,3\n", 3, "0 or more, got ''"),
        ("t_s,up_bps\n0,1,2\n1,\n", 2, "2 values"),
        ("t_s,up_bps\n0,\n", 2, "0 or more, got ''"),
    ],
)
def test_bad_csv_is_refused_with_its_line(tmp_path, text, line, said) -> None:
    path = written(tmp_path, "bad.csv", text)
    with pytest.raises(UserError) as error:
        load_trace(path)
    assert str(error.value).startswith(f"{path}:{line}: expected ")
    assert said in str(error.value)


def test_mahimahi_conserves_bytes_and_loops_at_the_last_stamp(tmp_path) -> None:
    stamps = [0, 0, 1, 20, 21, 21, 40, 41, 45]
    path = written(tmp_path, "cell.up", "".join(f"{stamp}\n" for stamp in stamps))
    trace = load_trace(path)
    assert trace.duration_ns == 45 * MS
    assert trace.t_ns == (0, 20 * MS, 40 * MS)
    # Packets of 12 kbit: four up to 20 ms, three up to 40 ms, two in the last 5 ms.
    assert trace.up_bps == (2_400_000, 1_800_000, 4_800_000)
    assert trace.down_bps is None
    bits_ns = sum(rate * (end - start) for start, end, rate in trace.spans("up"))
    assert bits_ns == len(stamps) * 12_000 * S
    schedule = trace.schedule("up", 20 * MS)
    assert schedule.rate_at(45 * MS) == schedule.rate_at(0)


def test_mahimahi_gives_one_direction_only(tmp_path) -> None:
    trace = load_trace(written(tmp_path, "cell.down", "5\n10\n"))
    assert trace.direction("down") == (2_400_000,)
    with pytest.raises(UserError, match=r"trace cell\.down: no direction 'up'"):
        trace.direction("up")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "an empty file"),
        ("0\n0\n", 2, "after 0 ms"),
        ("1\n\n2\n", 2, "''"),
        ("3\n5\n4\n", 3, "5 to 100000000, got '4'"),
        ("1\n2.5\n", 2, "'2.5'"),
        ("1\n-2\n", 2, "'-2'"),
        ("1\n١\n", 2, "whole number"),
        ("1700000000000\n", 1, "whole number"),
    ],
)
def test_bad_mahimahi_is_refused_with_its_line(tmp_path, text, line, said) -> None:
    path = written(tmp_path, "bad.up", text)
    with pytest.raises(UserError) as error:
        load_trace(path)
    assert str(error.value).startswith(f"{path}:{line}: expected ")
    assert said in str(error.value)


def test_other_files_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"expected a trace named .*got \.json"):
        load_trace(written(tmp_path, "trace.json", "{}"))
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_trace(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="expected text"):
        load_trace(tmp_path / "binary.csv")


def test_saving_where_it_could_not_be_read_back_is_refused(tmp_path) -> None:
    trace = BandwidthTrace((0,), (1,), None, S, "x")
    with pytest.raises(UserError, match=r"ending in \.csv"):
        save_trace(trace, tmp_path / "trace.up")
    with pytest.raises(UserError, match="cannot be written"):
        save_trace(trace, tmp_path / "nowhere" / "trace.csv")
