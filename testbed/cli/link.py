"""``testbed link`` and ``testbed restore``: the link for any program, and putting it back."""

from __future__ import annotations

import argparse
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.live import Live

from testbed.cli.common import LOCAL_INVENTORY, Output, add_verb, quantity
from testbed.errors import UserError
from testbed.units import format_rate, format_size, parse_duration_ns

SIDES = ("uplink", "downlink")


def shape(args: argparse.Namespace, out: Output) -> int:
    """Shape the link to constant rates until interrupted, with a live line, then put it back."""
    from testbed.config.link import parse_direction

    return _hold(
        {side: parse_direction(side, getattr(args, side)) for side in SIDES}, {}, args, out
    )


def replay(args: argparse.Namespace, out: Output) -> int:
    """Replay a bandwidth trace over the link with a live line, then put it back."""
    from testbed.config.link import parse_direction
    from testbed.traces.formats import load_trace

    trace = {"trace": str(args.trace.resolve())}
    directions: dict[str, Any] = {"uplink": trace}
    if args.downlink is not None:
        directions["downlink"] = parse_direction("downlink", args.downlink)
    elif load_trace(args.trace).down_bps is not None:
        directions["downlink"] = trace
    else:
        raise UserError(f"{args.trace}: has no downlink; say --downlink, such as 40mbit")
    return _hold(directions, {"step": args.step, "end": args.end}, args, out)


def _hold(
    directions: dict[str, Any], settings: dict[str, Any], args: argparse.Namespace, out: Output
) -> int:
    from testbed.config import load_inventory
    from testbed.config.link import link_experiment
    from testbed.orchestrator.link_session import LinkSession
    from testbed.orchestrator.log_folder import log_folder

    experiment = link_experiment(directions, settings)
    inventory = load_inventory(args.inventory)
    meter = _Meter()
    ended = threading.Event()
    with (
        log_folder("link") as folder,
        LinkSession(experiment, inventory, folder, out.stage, lab_id=args.lab) as session,
    ):
        session.on_record = meter.record
        try:
            with Live(console=out.console, get_renderable=meter.line, refresh_per_second=2):
                session.go()
                _wait(session, ended, args.duration)
        except KeyboardInterrupt:
            pass  # the way to end it
        done = session.stop()
        session.restore_link()
    document = {"samples": meter.samples, "done": done}
    out.document(document, lambda: print("the link is as it was before"))
    return 0


def _wait(session: Any, ended: threading.Event, duration_ns: int | None) -> None:
    """Until interrupted, until the duration has passed, or until a role ends."""
    left_s = None if duration_ns is None else duration_ns / 1e9
    while left_s is None or left_s > 0:
        step_s = 0.5 if left_s is None else min(0.5, left_s)
        ended.wait(step_s)
        for name in session.link_roles:
            session.roles[name].check()
        left_s = None if left_s is None else left_s - step_s


class _Meter:
    """What the link's records say now: rate set, carried in the last second, queue, drops."""

    def __init__(self) -> None:
        self.samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._rate_bps: dict[str, int] = {}

    def record(self, role: str, file: str, record: dict[str, Any]) -> None:
        """Take one record; called from reader threads."""
        if "rate_bps" in record:
            self._rate_bps[record["direction"]] = record["rate_bps"]
        elif "sample" in record:
            self.samples[record["direction"]].append({"t_ns": record["t_ns"], **record["sample"]})

    def line(self) -> str:
        """Every direction in one line, those of a further router with its name."""
        known = list(self._rate_bps)
        known.sort(key=lambda direction: SIDES.index(direction.partition("-")[0]))
        return "   ".join(map(self._told, known))

    def _told(self, direction: str) -> str:
        from testbed.framing import LINK_FRAME_BYTES, MTU_BYTES

        side, _, router = direction.partition("-")
        arrow = {"uplink": "↑", "downlink": "↓"}[side]
        told = f"{router} {arrow} set {format_rate(self._rate_bps[direction])}".lstrip()
        if len(self.samples[direction]) < 2:
            return told
        before, now = self.samples[direction][-2:]
        carried = (now["bytes"] - before["bytes"]) * 8e9 / (now["t_ns"] - before["t_ns"])
        carried *= MTU_BYTES / LINK_FRAME_BYTES  # the class counts link bytes, a rate IP bytes
        queue = format_size(now["backlog_bytes"])
        return f"{told}, carried {format_rate(round(carried))}, queue {queue}, drops {now['drops']}"


def _recover(action: str, args: argparse.Namespace, out: Output) -> int:
    from testbed.config import load_inventory
    from testbed.orchestrator.link_session import recover

    found = recover(load_inventory(args.inventory), action)
    lines = [(host, line) for host, told in found.items() for line in told]

    def words() -> None:
        for host, line in lines:
            print(f"{host}: {line['interface']}: {line['text']}")
        if not lines:
            print("nothing to put back")

    out.document({"hosts": found}, words)
    return 0 if all(line["ok"] for _, line in lines) else 1


def restore(args: argparse.Namespace, out: Output) -> int:
    """Put back what a killed campaign left shaped, from the journals on the hosts."""
    return _recover("restore", args, out)


def clear(args: argparse.Namespace, out: Output) -> int:
    """End whoever shapes the link now, and put everything back."""
    return _recover("clear", args, out)


def show(args: argparse.Namespace, out: Output) -> int:
    """Show what is shaped on the hosts, by whom, and its counters."""
    from testbed.config import load_inventory
    from testbed.orchestrator.link_session import recover

    found = recover(load_inventory(args.inventory), "show")

    def words() -> None:
        for host, entries in found.items():
            for entry in entries:
                held = "held by" if entry["held"] else "LEFT BEHIND by"
                print(f"{host}: {entry['interface']}: {held} {entry['told']}")
                for qdisc in entry["state"]["qdiscs"]:
                    print(f"  {qdisc['kind']} {qdisc['handle']} parent {qdisc['parent']}")
                for name, counters in entry["state"]["counters"].items():
                    print(f"  {name}: {', '.join(f'{k} {v}' for k, v in counters.items())}")
        if not any(found.values()):
            print("nothing is shaped")

    out.document({"hosts": found}, words)
    return 0


def add_verbs(verbs: Any) -> None:
    """Add ``link`` with its verbs, and ``restore``."""
    link = verbs.add_parser("link", help="Shape the link for any program; show and clear it.")
    kinds = link.add_subparsers(required=True, metavar="VERB")
    described = "20mbit, or as in an experiment: '{rate: 20mbit, queue: 100kB}'"
    verb = add_verb(kinds, "set", shape)
    verb.add_argument("--uplink", required=True, help=described)
    verb.add_argument("--downlink", required=True, help=described)
    held = [verb]
    verb = add_verb(kinds, "replay", replay)
    verb.add_argument("trace", type=Path, help="a bandwidth trace's file")
    verb.add_argument("--downlink", help=f"{described} (default: the trace's own)")
    verb.add_argument("--step", default="100ms", help="the rate changes in steps of this length")
    verb.add_argument("--end", choices=("loop", "hold", "stop"), default="loop")
    held.append(verb)
    for verb in held:
        verb.add_argument("--lab", help="the virtual lab's id (default: the one up, or a new one)")
        verb.add_argument(
            "--duration", type=quantity(parse_duration_ns), help="default: until interrupted"
        )
    others = [add_verb(kinds, "show", show), add_verb(kinds, "clear", clear)]
    for verb in (*held, *others, add_verb(verbs, "restore", restore)):
        verb.add_argument("-i", "--inventory", type=Path, default=LOCAL_INVENTORY)
