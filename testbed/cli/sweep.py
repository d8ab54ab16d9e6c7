"""``testbed profile|sweep|advise``: what each split costs, over every rate, and for one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.table import Table

from testbed.cli.common import LOCAL_INVENTORY, RESULTS, Output, add_verb, folder_to_write, quantity
from testbed.errors import UserError
from testbed.units import format_rate, parse_duration_ns, parse_rate_bps

# Of a sweep's report: what can be told the path of.
FORMATS = {"html": "report.html", "pdf-figures": "figures", "csv": "tables"}


def _say(out: Output) -> Any:
    return lambda text: out.console.print(text, highlight=False, markup=False)


def profile(args: argparse.Namespace, out: Output) -> int:
    """Measure a profile on the hosts, and keep it for later runs of the same model on them."""
    from testbed.config import load_experiment, load_inventory
    from testbed.orchestrator.sweep import measure_profile

    experiment, inventory = load_experiment(args.experiment), load_inventory(args.inventory)
    folder, made = measure_profile(experiment, inventory, args.results, _say(out))

    def words() -> None:
        for batch, stopped in made["stopped"].items():
            told = "every median is tight" if stopped == "tight" else "the time budget is spent"
            print(f"batch {batch}: ended because {told}")
        for clients, under in made["loads"].items():
            told = max(c["wait_ns"] + c["tail_ns"] for c in under["candidates"].values())
            print(f"{clients} clients on the server: wait and tail up to {told / 1e6:.1f} ms")
        worst = max(made["drift"].values(), key=lambda ratio: abs(ratio - 1))
        print(f"drift: the first batch size took up to {worst:.3g} times as long at the end")
        print(f"profile: {folder / 'profile.json'}")

    out.document({"profile": str(folder / "profile.json"), **made}, words)
    return 0


def sweep(args: argparse.Namespace, out: Output) -> int:
    """Profile, predict every cell of the grid, really run some, and write the sweep's report."""
    from testbed.config import load_experiment, load_inventory
    from testbed.orchestrator.sweep import run_sweep

    experiment, inventory = load_experiment(args.experiment), load_inventory(args.inventory)
    return report_sweep(run_sweep(experiment, inventory, args.results, _say(out)), "html", out)


def report_sweep(folder: Path, what: str, out: Output) -> int:
    """Write a sweep's report from its files, and tell the path of one of :data:`FORMATS`."""
    from analysis.sweep_report import write_sweep_report

    if what not in FORMATS:
        raise UserError(
            f"report: {folder} is a sweep's folder: expected --format {', '.join(FORMATS)}, "
            f"got {what}"
        )
    page, summary = write_sweep_report(folder)
    path = page.parent / FORMATS[what]
    told = {name: summary[name] for name in ("answer", "reading", "prediction")}
    document = {"campaign": str(folder), "report": str(path), "doubts": summary["doubts"], **told}

    def words() -> None:
        for doubt in summary["doubts"]:
            print(f"to know first: {doubt}")
        print("\n".join(told.values()), f"\nreport: {path}", sep="")

    out.document(document, words)
    return 0


def advise(args: argparse.Namespace, out: Output) -> int:
    """Rank the split points of a profiled model for one rate, round trip and server load."""
    from testbed.orchestrator.advice import advice
    from testbed.orchestrator.fingerprint import read_profile

    found = advice(
        read_profile(args.device_profile),
        args.model,
        rate_bps=args.rate,
        rtt_ns=args.rtt,
        batch=args.batch,
        load=args.load,
    )

    def words() -> None:
        title = (
            f"{found['model']}, batch {found['batch']}, {format_rate(args.rate)}, round trip "
            f"{args.rtt / 1e6:g} ms, server load {args.load:g}, {found['encoding']}"
        )
        table = Table(title=title, title_justify="left")
        for column in ("split", "total ms", "device", "uplink", "round trip", "server", "kB up"):
            table.add_column(column, justify="left" if column == "split" else "right")
        for row in found["ranking"]:
            parts = ("total", "device", "uplink", "network", "server")
            cells = [f"{row[f'{part}_ns'] / 1e6:.1f}" for part in parts]
            table.add_row(row["split"], *cells, f"{row['bytes_up'] / 1e3:.1f}")
        out.console.print(table)
        print(found["answer"])

    out.document(found, words)
    return 0


def add_verbs(verbs: Any) -> None:
    """Add ``profile``, ``sweep`` and ``advise``."""
    for name, action in (("profile", profile), ("sweep", sweep)):
        verb = add_verb(verbs, name, action)
        verb.add_argument("experiment", type=Path, help="the experiment's YAML file")
        verb.add_argument("-i", "--inventory", type=Path, default=LOCAL_INVENTORY)
        verb.add_argument(
            "--results", type=folder_to_write, default=RESULTS, help="where to keep results"
        )
    verb = add_verb(verbs, "advise", advise)
    verb.add_argument("model", help="the model's name, as in the profile")
    verb.add_argument("--device-profile", type=Path, required=True, help="a profile.json")
    verb.add_argument("--rate", type=quantity(parse_rate_bps), required=True, help="of the uplink")
    verb.add_argument("--rtt", type=quantity(parse_duration_ns), default="0ms")
    verb.add_argument("--batch", type=int, help="default: the smallest of the profile")
    verb.add_argument("--load", type=float, default=1.0, help="how many times slower the server is")
