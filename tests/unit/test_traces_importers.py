"""Each family's units and traps, on tiny files made by hand in its layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.errors import UserError
from testbed.traces.importers import FORMATS, Imported, import_trace
from testbed.traces.importers.source import Request

S, MS, MBIT = 10**9, 10**6, 10**6

HSDPA = """\
1289406399 549893 59.851754 10.781778 248456 1000
1289406400 550893 59.851754 10.781778 125000 1000
"""
GHENT = """\
1453121790686 1000 51.0386 3.7323 2500000 0999
1453121791686 2000 51.0386 3.7323 1250000 1000
"""
UCC_5G_HEADER = (
    "Timestamp,Longitude,Latitude,Speed,Operatorname,CellID,NetworkMode,RSRP,RSRQ,SNR,CQI,RSSI,"
    "DL_bitrate,UL_bitrate,State,PINGAVG,PINGMIN,PINGMAX,PINGSTDEV,PINGLOSS,CELLHEX,NODEHEX,"
    "LACHEX,RAWCELLID,NRxRSRP,NRxRSRQ\n"
)
UCC_4G_HEADER = (
    "Timestamp,Longitude,Latitude,Speed,Operatorname,CellID,NetworkMode,RSRP,RSRQ,SNR,CQI,RSSI,"
    "DL_bitrate,UL_bitrate,State,NRxRSRP,NRxRSRQ,ServingCell_Lon,ServingCell_Lat,"
    "ServingCell_Distance\n"
)
LUMOS_HEADER = (
    "run_num,seq_num,abstractSignalStr,latitude,longitude,movingSpeed,compassDirection,nrStatus,"
    "lte_rssi,lte_rsrp,lte_rsrq,lte_rssnr,nr_ssRsrp,nr_ssRsrq,nr_ssSinr,Throughput,mobility_mode,"
    "trajectory_direction,tower_id\n"
)
FCC_HEADER = (
    "unit_id,dtime,target,address,fetch_time,bytes_total,bytes_sec,objects,threads,requests,"
    "connections,reused_connections,lookups,request_total_time,request_min_time,request_avg_time,"
    "request_max_time,ttfb_total,ttfb_min,ttfb_avg,ttfb_max,lookup_total_time,lookup_min_time,"
    "lookup_avg_time,lookup_max_time,successes,failures\n"
)
PUFFER_HEADER = (
    "time (ns GMT),session_id,index,expt_id,channel,video_ts,format,size,ssim_index,cwnd,"
    "in_flight,min_rtt,rtt,delivery_rate\n"
)
RULER = "###############################\n"


def ucc_5g(second: str, rate: str, state: str = "D") -> str:
    return (
        f"2019.12.16_13.40.{second},-8.4,51.9,0,B,11,5G,-100,-18,-9,9,-101,{rate},160,{state},"
        "-,-,-,-,-,B,A4DF,9CBA,10805003,-99,-16\n"
    )


def ucc_4g(second: str, rate: str) -> str:
    return (
        f"2017.11.22_10.07.{second},-8.5,51.8,4,A,2,LTE,-119,-14,2,6,-94,{rate},194,D,-120,-18,"
        "-8.49,51.89,609.7\n"
    )


def lumos(run: int, second: str, rate: str, mode: str = "walking") -> str:
    signal = "1,44.9,-93.2,1,90,CONNECTED,-60,-90,-11,5,-80,-11,15"
    return f"{run},{second},{signal},{rate},{mode},CW,2\n"


def fcc(unit: int, rate: int, *, target: str = "www.a.com", ok: int = 1) -> str:
    stamp = f"{unit},2016-09-01 00:33:51,{target},1.2.3.4,1,1,{rate}"
    return stamp + ",1" * 7 + ",0" * 11 + f",{ok},{1 - ok}\n"


def puffer(t_ns: int, session: str, index: int, rate: int) -> str:
    return f"{t_ns},{session},{index},1,cbs,1,1280x720,100,0.98,10,0,40000,41000,{rate}\n"


def iperf3(sums: list[dict], protocol: str = "TCP") -> str:
    report = {
        "start": {"version": "iperf 3.12", "test_start": {"protocol": protocol, "reverse": 0}},
        "intervals": [{"streams": [], "sum": found} for found in sums],
        "end": {},
    }
    return json.dumps(report, indent=1)


def second(i: int, count_bytes: int, **more: object) -> dict:
    return {"start": i, "end": i + 1, "seconds": 1.0, "bytes": count_bytes} | more


def read(folder: Path, text: str, name: str = "original", **said: object) -> Imported:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return import_trace(path, Request(**said))


def steps(found: Imported, direction: str) -> list[tuple[float, float, float]]:
    spans = found.trace.spans(direction)
    return [(start / S, end / S, rate / MBIT) for start, end, rate in spans]


RECOGNISED = {
    "testbed": ("t_s,up_bps\n0,1\n1,\n", None),
    "mahimahi": ("1\n5\n", "up"),
    "hsdpa-norway": (HSDPA, None),
    "ghent-4g": (GHENT, None),
    "ucc-5g": (UCC_5G_HEADER + ucc_5g("04", "9") + ucc_5g("05", "9"), None),
    "ucc-4g": (UCC_4G_HEADER + ucc_4g("04", "9") + ucc_4g("05", "9"), None),
    "lumos5g": (LUMOS_HEADER + lumos(1, "1", "9"), None),
    "nuwins": (f"\n{RULER}Run 1\n1,2,3\n", None),
    "nyu-mets": ("1.5,Mbits/sec\n2,Kbits/sec\n", "up"),
    "fcc": (FCC_HEADER + fcc(1, 5), None),
    "puffer": (PUFFER_HEADER + puffer(5, "a", 0, 5) + puffer(9, "a", 0, 5), None),
    "oboe": ("12.0 3738.8\n4401.0 3738.8\n4514.0 3748.9\n8846.0 3748.9\n", None),
    "cooked": ("0.5\t1.25\n1.0\t2.5\n1.9\t2.5\n", "down"),
    "iperf3": (iperf3([second(0, 5)]), "up"),
}


@pytest.mark.parametrize("name", RECOGNISED)
def test_content_tells_the_format(tmp_path, name) -> None:
    text, direction = RECOGNISED[name]
    sidecar = read(tmp_path, text, direction=direction).sidecar
    assert sidecar["format"] == name
    assert sidecar["directions"] == [direction or FORMATS[name].direction or "up"]


def test_every_format_but_the_callers_own_is_recognised() -> None:
    assert set(FORMATS) - set(RECOGNISED) == {"csv"}


@pytest.mark.parametrize("name", [n for n, (_, said) in RECOGNISED.items() if said])
def test_a_direction_that_the_file_does_not_tell_must_be_said(tmp_path, name) -> None:
    with pytest.raises(UserError, match=r"does not tell which direction .*; say --direction"):
        read(tmp_path, RECOGNISED[name][0])


@pytest.mark.parametrize("name", ["hsdpa-norway", "ucc-5g", "lumos5g", "oboe"])
def test_a_downlink_is_not_imported_as_uplink(tmp_path, name) -> None:
    with pytest.raises(UserError, match=r"says down, .*'direction: as-uplink' in the experiment"):
        read(tmp_path, RECOGNISED[name][0], direction="up")


def test_an_uplink_named_so_is_not_imported_as_downlink(tmp_path) -> None:
    with pytest.raises(UserError, match=r"'direction: as-downlink'"):
        read(tmp_path, "1\n5\n", "cell.up", direction="down")


def test_what_may_be_two_formats_is_refused_with_both(tmp_path) -> None:
    text = "1.0 311\n2.0 311\n3.0 500\n4.0 500\n"
    with pytest.raises(UserError, match=r"may be oboe or cooked; say --format oboe\|cooked"):
        read(tmp_path, text)
    assert steps(read(tmp_path, text, format="oboe"), "down")[0] == (0, 0.002, 0.311)


@pytest.mark.parametrize("text", ["", "hello\n", "a,b\n1,2\n", "5\n3\n", '{"a": 1}\n'])
def test_what_is_not_known_is_refused_with_all_formats(tmp_path, text) -> None:
    with pytest.raises(UserError, match=r"not recognised .* --format testbed\|mahimahi\|"):
        read(tmp_path, text)


def test_an_option_without_use_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="--gaps means nothing for the format mahimahi"):
        read(tmp_path, "1\n5\n", "cell.up", gaps="zero")
    with pytest.raises(UserError, match="ucc-5g selects by nothing, got 'run'"):
        read(tmp_path, RECOGNISED["ucc-5g"][0], select={"run": "1"})
    with pytest.raises(UserError, match="format: expected one of testbed, "):
        read(tmp_path, "", format="pcap")


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


CSV = "when;note;rx;tx\n10.5;a;1000;8\n11;b;-;8\n11.5;c;2000;\n12;d;3000;16\n"
OWN = {"format": "csv", "unit": "kB/s", "time": "when", "time_unit": "s"}


def test_csv_of_named_columns_gives_both_directions(tmp_path) -> None:
    found = read(tmp_path, CSV, columns={"down": "rx", "up": "tx"}, gaps="zero", **OWN)
    assert steps(found, "down") == [(0, 0.5, 8), (0.5, 1.5, 0), (1.5, 2, 24)]
    assert steps(found, "up") == [(0, 0.5, 0.064), (0.5, 1.5, 0), (1.5, 2, 0.128)]


def test_csv_times_may_be_dates(tmp_path) -> None:
    text = "t,v\n2026-03-29T01:59:59.5,1\n2026-03-29T02:00:00.5,2\n"
    said = {**OWN, "time": "t", "time_unit": "iso", "unit": "Gbit/s"}
    found = read(tmp_path, text, columns={"up": "v"}, **said)
    assert steps(found, "up") == [(0, 1, 1000), (1, 2, 2000)]
    with pytest.raises(UserError, match="original:3: expected a time such as 2026"):
        read(tmp_path, text.replace("2026-03-29T02", "later"), columns={"up": "v"}, **said)


@pytest.mark.parametrize("name", ["csv", "testbed"])
def test_columns_tell_their_direction_themselves(tmp_path, name) -> None:
    own = {**OWN, "columns": {"up": "rx"}}
    text, said = (CSV, own) if name == "csv" else (RECOGNISED[name][0], {})
    with pytest.raises(UserError, match="--direction means nothing here"):
        read(tmp_path, text, direction="down", **said)


def test_csv_without_its_unit_or_columns_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="needs --up-column or --down-column"):
        read(tmp_path, CSV, format="csv")
    with pytest.raises(
        UserError, match=r"original:1: expected a header with speed, got 'when;note;rx;tx'"
    ):
        read(tmp_path, CSV, columns={"up": "speed"}, **OWN)
    with pytest.raises(UserError, match="a wrong time unit"):
        read(tmp_path, "when;rx\n0;1\n1e9;1\n2e9;1\n", columns={"up": "rx"}, **OWN)


def test_mahimahi_bad_lines_are_left_out_only_on_demand(tmp_path) -> None:
    text = "5\n\n20\n10\n40\n"
    with pytest.raises(UserError, match=r"cell\.up:2: expected one whole number of ms, 5 to 10+,"):
        read(tmp_path, text, "cell.up", format="mahimahi")
    found = read(tmp_path, text, "cell.up", format="mahimahi", skip_bad=True)
    assert found.sidecar["skipped_lines"] == 2
    assert steps(found, "up") == [(0, 0.02, 1.2), (0.02, 0.04, 0.6)]


def test_nothing_left_is_no_trace(tmp_path) -> None:
    with pytest.raises(UserError, match="expected at least one rate, got none"):
        read(tmp_path, UCC_5G_HEADER + ucc_5g("01", "0", "I"))
    with pytest.raises(UserError, match="expected run=4, got run=1 pair=1"):
        read(tmp_path, "Run 1\n5\n", select={"run": "4"})
