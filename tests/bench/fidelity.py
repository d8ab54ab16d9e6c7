"""Does the link carry what the trace says? Greedy UDP through a replay, counted as it comes out.

``python -m tests.bench.fidelity [--trace FILE] [--runs 7] [--router uml] [--delay 20ms]`` makes a
virtual lab without limits, replays the trace's uplink in steps of 100 ms, and counts IP bytes at
the server by the kernel's time of arrival, from the replay's own start. Prints a table with its
bounds, writes ``bench-fidelity.json`` and ``bench-fidelity.png``; exit status 1 where a bound is
not kept. Stretches without capacity are outages (``hold``) and have a line of their own. Then
outages of each kind at a constant rate: how long after their planned end packets come again. The
medians leave out runs in which neighbours took more of the processors than the bound.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from analysis.figures.fidelity import write_fidelity_figure
from testbed.cli.common import quantity
from testbed.config import load_inventory
from testbed.config.link import link_experiment
from testbed.hosts.clock import measure_offset
from testbed.lab.layout import namespace_of
from testbed.orchestrator.link_session import LinkSession
from testbed.orchestrator.plan import DIRECTIONS, schedule_json
from testbed.orchestrator.probing import Probers
from testbed.orchestrator.validity import STEAL_SHARE
from testbed.traces.canonical import save_trace
from testbed.traces.formats import load_trace
from testbed.traces.trace import SECOND_NS, BandwidthTrace, Schedule
from testbed.units import parse_duration_ns
from testbed.worker.host import StealMeter
from tests.bench.fidelity_bins import STEP_NS, Found, cut, judged, percentile
from tests.bench.greedy import Stream
from tests.bench.outage_ends import ends_of_outages

ROOT = Path(__file__).parents[2]
TRACE = ROOT / "experiments" / "traces" / "radio.csv"
OFFERED = 1.2  # times the highest rate: the queue never runs empty
LEAD_S, TIMEOUT_S = 0.5, 30.0
PINGS, PING_NS, PING_BPS = 400, 5_000_000, 20_000_000
# Medians; of a user-mode router only the first is asked.
BOUNDS = {
    "namespace": {
        "error_1s": 0.005,
        "error_100ms": 0.02,
        "correlation_100ms": 0.998,
        "cpu_share": 0.05,
        "late_p99_ms": 3.0,
    },
    "uml": {"error_1s": 0.02},
}
ADDED_RTT_MS, DELAY_OVER_MS = 0.3, 0.6
INVENTORY = """\
schema_version: 1
lab: local
hosts:
  device: {{roles: [device]}}
  router: {{roles: [link], router: {{kind: {kind}}}}}
  server: {{roles: [server]}}
"""


@dataclass(frozen=True)
class Asked:
    """What is measured: a cut of a trace, on a kind of router, so many times."""

    trace: BandwidthTrace
    kind: str
    runs: int
    delay_ns: int

    @property
    def seconds(self) -> float:
        return self.trace.duration_ns / SECOND_NS


def replayed(session: LinkSession, asked: Asked) -> Found:
    """One run of the replay under greedy UDP."""
    assert session.lab is not None
    data = session.inventory.hosts["server"].data
    assert data is not None
    records: list[Found] = []
    session.on_record = lambda role, file, record: records.append(record)
    ends = [namespace_of(session.lab.lab_id, host) for host in ("device", "server")]
    rate_bps = OFFERED * max(asked.trace.direction("up"))
    length_s = LEAD_S + asked.seconds + TIMEOUT_S
    with Stream(ends[0], ends[1], str(data.address), rate_bps, length_s) as stream:
        time.sleep(LEAD_S)  # the queue fills
        offset_ns = measure_offset(session.roles["link"]).offset_ns
        steal = StealMeter()
        t0_ns = session.go()["link"]["t0_ns"] - offset_ns
        time.sleep(asked.seconds + (t0_ns - time.monotonic_ns()) / 1e9)
        stolen = steal.share() or 0.0
        done = session.stop()["link"]
        arrivals_ns = stream.arrivals_ns()
    late_ms = [record["late_ns"] / 1e6 for record in records if "n" in record]
    took_ms = [record["took_ns"] / 1e6 for record in records if "n" in record]
    return judged(asked.trace, arrivals_ns, t0_ns) | {
        "changes": len(late_ms),
        "late_ms": late_ms,
        "late_p50_ms": median(late_ms),
        "late_p99_ms": percentile(late_ms, 0.99),
        "took_p50_ms": median(took_ms),
        "cpu_share": done["cpu_ns"] / 1e9 / asked.seconds,
        "real_time": done["real_time"],
        "steal_share": stolen,
        "disturbed": stolen > STEAL_SHARE,
    }


def round_trips(session: LinkSession) -> Found:
    """Median round trips in ms of the idle link, shaped and then as it was."""
    ends = {side: session.connections[side] for side in ("device", "server")}
    constant = {side: schedule_json(Schedule.constant(PING_BPS)) for side in DIRECTIONS}
    message = {"type": "start", "run_id": "ping", "schedules": constant}
    session.roles["link"].request(message, "started", TIMEOUT_S)
    with Probers(ends, session.folder / "logs") as probers:
        shaped = probers.ping(PINGS, PING_NS)["rtts_ns"]
        session.restore_link()
        plain = probers.ping(PINGS, PING_NS)["rtts_ns"]
    both = {"shaped": median(shaped) / 1e6, "unshaped": median(plain) / 1e6}
    return both | {"added": both["shaped"] - both["unshaped"], "n": len(shaped)}


def measure(asked: Asked) -> Found:
    """Everything in one lab: the runs, then the round trips."""
    with tempfile.TemporaryDirectory(prefix="testbed-fidelity-") as name:
        folder = Path(name)
        (folder / "logs").mkdir()
        (folder / "lab.yaml").write_text(INVENTORY.format(kind=asked.kind))
        save_trace(asked.trace, folder / "cut.csv")
        uplink: Found = {"trace": str(folder / "cut.csv")}
        if asked.delay_ns:
            uplink["delay"] = f"{asked.delay_ns}ns"
        # The other direction changes at the same moments, as in a campaign.
        downlink = {"trace": str(folder / "cut.csv"), "direction": "as-downlink"}
        directions = {"uplink": uplink, "downlink": downlink}
        experiment = link_experiment(directions, {"step": f"{STEP_NS}ns", "outage": "hold"})
        with LinkSession(
            experiment, load_inventory(folder / "lab.yaml"), folder, lambda text: None
        ) as session:
            runs = []
            for _ in range(asked.runs):
                runs.append(replayed(session, asked))
                print(_line(runs[-1]), flush=True)
            ends = ends_of_outages(session)
            return {"runs": runs, "outage_ends": ends, "rtt_ms": round_trips(session)}


def _line(run: Found) -> str:
    return (
        f"{run['error_1s']:9.2%}{run['error_100ms']:9.2%}{run['correlation_100ms']:9.4f}"
        f"{run['late_p50_ms']:8.2f}{run['late_p99_ms']:8.2f}{run['cpu_share']:8.3f}"
        f"{run['steal_share']:8.1%}{'  disturbed' if run['disturbed'] else ''}"
    )


def summarised(found: Found, asked: Asked) -> Found:
    """Medians over the undisturbed runs (over all where none is), and what is out of bounds."""
    runs = [run for run in found["runs"] if not run["disturbed"]] or found["runs"]
    numbers = [key for key, value in runs[0].items() if isinstance(value, float)]
    medians = {key: median(run[key] for run in runs) for key in numbers}
    faults = []
    for key, bound in BOUNDS[asked.kind].items():
        least = key.startswith("correlation")
        if medians[key] < bound if least else medians[key] > bound:
            faults.append(f"{key}: {medians[key]:.4g}, bound {bound:g}")
    for kind, ends in found["outage_ends"].items():
        if asked.kind == "namespace" and abs(ends["worst_ms"]) > STEP_NS / 1e6:
            faults.append(f"end of an outage ({kind}): {ends['worst_ms']:+.1f} ms, bound one step")
    over_ms = found["rtt_ms"]["added"] - asked.delay_ns / 1e6
    if (
        not (0 if asked.delay_ns else -ADDED_RTT_MS)
        <= over_ms
        <= (DELAY_OVER_MS if asked.delay_ns else ADDED_RTT_MS)
    ):
        faults.append(f"added round trip: {found['rtt_ms']['added']:.2f} ms")
    return {"median": medians, "undisturbed": len(runs), "faults": faults}


def main() -> int:
    """Measure, tell, write; returns the exit status."""
    parser = argparse.ArgumentParser(prog="fidelity", description="Fidelity of a replayed trace.")
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--begin", type=quantity(parse_duration_ns), default=0)
    parser.add_argument("--length", type=quantity(parse_duration_ns), default=30 * SECOND_NS)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--router", choices=tuple(BOUNDS), default="namespace")
    parser.add_argument("--delay", type=quantity(parse_duration_ns), default=0)
    parser.add_argument("--output", type=Path, default=Path("bench-fidelity.json"))
    args = parser.parse_args()
    trace = cut(load_trace(args.trace), args.begin, args.length)
    asked = Asked(trace, args.router, args.runs, args.delay)
    print(f"{trace.source}, {asked.seconds:g} s from {args.begin / 1e9:g} s, {args.router} router")
    print("      1 s   100 ms        r late p50     p99    core   steal")
    found = measure(asked)
    found |= {"trace": trace.source, "begin_s": args.begin / 1e9, "seconds": asked.seconds}
    found |= {"router": args.router, "delay_ms": args.delay / 1e6, **summarised(found, asked)}
    args.output.write_text(json.dumps(found, indent=1) + "\n")
    write_fidelity_figure(found, args.output.with_suffix(".png"))
    print(f"{_line({**found['median'], 'disturbed': False})}  median of {found['undisturbed']}")
    if gaps := found["runs"][0]["capacity_bps_100ms"].count(0):
        idle_bps = found["median"]["idle_bps_100ms"]
        print(f"apart: {gaps} steps without capacity, {idle_bps / 1e3:.1f} kbit/s carried in them")
    for kind, ends in found["outage_ends"].items():
        print(
            f"outage {kind}: packets again {ends['median_ms']:+.1f} ms (p50) after its planned "
            f"end, at worst {ends['worst_ms']:+.1f} (n {ends['n']})"
        )
    rtt = found["rtt_ms"]
    print(
        f"round trip p50 {rtt['shaped']:.2f} ms shaped, {rtt['unshaped']:.2f} unshaped, "
        f"{rtt['added']:+.2f} (n {rtt['n']})"
    )
    for fault in found["faults"]:
        print(f"OUT OF BOUNDS: {fault}")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
