"""Trace files beyond all sense are refused in one line, at once, and never worked out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testbed.errors import UserError
from testbed.traces.generate import generate
from testbed.traces.importers import import_trace
from testbed.traces.importers.source import Request

OWN_CSV: dict[str, Any] = {
    "format": "csv",
    "unit": "Mbit/s",
    "columns": {"up": "b"},
    "time": "a",
    "time_unit": "s",
}
LINE = "1289405734 1000 1 1 500 1000\n"
IPERF = '{{"start": "iperf 3", "intervals": [{{"sum": {{"start": 0, "end": {}, "seconds": 1}}}}]}}'


@pytest.mark.parametrize("huge", ["1e999999", "1e400", "9" * 5000, "nan", "inf"])
@pytest.mark.parametrize(
    ("text", "request_", "line"),
    [
        ("t_s,up_bps\n0,{}\n1,\n", {"format": "testbed"}, 2),
        ("t_s,up_bps\n0,5\n{},5\n", {"format": "testbed"}, 3),
        (LINE + "1289405735 2000 1 1 {} 1000\n", {"format": "hsdpa-norway"}, 2),
        (LINE + "1289405735 {} 1 1 5 1000\n", {"format": "ghent-4g"}, 2),
        ("0 5\n1 {}\n", {"format": "cooked", "direction": "up"}, 2),
        ("0 5\n{} 5\n", {"format": "oboe"}, 2),
        ("0\n{}\n", {"format": "mahimahi", "direction": "up"}, 2),
        ("a,b\n0,3\n{},3\n", OWN_CSV, 3),
        ("session_id,index,time (ns GMT),delivery_rate\na,1,{},5\n", {"format": "puffer"}, 2),
    ],
)
def test_a_number_that_none_can_be(text, request_, line, huge, tmp_path) -> None:
    path = tmp_path / "trace"
    path.write_text(text.format(huge))
    with pytest.raises(UserError) as refused:
        import_trace(path, Request(**request_))
    told = str(refused.value)
    assert told.startswith(f"{path}:{line}: expected ")
    assert len(told) < 400 + len(str(path))


@pytest.mark.parametrize(
    ("text", "request_", "told"),
    [
        (
            IPERF.format("1e999"),
            {"format": "iperf3"},
            "a number of 0 or more as intervals",
        ),
        (IPERF.format("NaN"), {"format": "iperf3"}, "a number of 0 or more as intervals"),
        (IPERF.format("true"), {"format": "iperf3"}, "a number of 0 or more as intervals"),
        (IPERF.format("9" * 5000), {"format": "iperf3"}, "expected JSON as iperf3 writes it"),
        ("[" * 100_000, {"format": "iperf3"}, "expected JSON as iperf3 writes it"),
        ("0\n100000001\n", {"format": "mahimahi"}, "one whole number of ms, 0 to 100000000, got"),
        ("t_s,up_bps\n0,5\n60,\n", {"step_ns": 1}, "expected at most 5000000 steps, got 60 s in"),
        ("t_s,up_bps\n0,5\n9000000,\n", {"step_ns": 10**6}, "expected at most 5000000 steps"),
        ("t_s,up_bps\n0,1e16\n1,\n", {}, "up: expected rates up to 1000000000000000 bit/s"),
        (f"a,b\n{'x' * 200_000},3\n", OWN_CSV, "trace:2: expected a line of CSV (field larger"),
        (f"{'x' * 200_000},b\n1,3\n", OWN_CSV, "trace:1: expected a line of CSV (field larger"),
    ],
)
def test_more_than_memory_is_made_for(text, request_, told, tmp_path) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    one_way = {"direction": "up"} if request_.get("format") in ("iperf3", "mahimahi") else {}
    with pytest.raises(UserError) as refused:
        import_trace(path, Request(**request_, **one_way))
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_has_no_end_is_not_read() -> None:
    with pytest.raises(UserError, match=r"^/dev/zero: expected a file, got a pipe or a device"):
        import_trace(Path("/dev/zero"), Request())


def test_a_generated_trace_has_an_end() -> None:
    with pytest.raises(UserError, match=r"trace lte: expected at most 5000000 steps, got 3\.6e\+"):
        generate("lte", duration_ns=36 * 10**17, seed=1, min_bps=10**6, max_bps=10**7)
