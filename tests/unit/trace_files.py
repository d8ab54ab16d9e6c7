"""A tiny file of each family of traces, made by hand in its layout."""

from __future__ import annotations

import json
from pathlib import Path

from testbed.traces.importers import Imported, import_trace
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
