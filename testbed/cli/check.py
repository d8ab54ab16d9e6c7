"""``testbed check``: is everything fit to run?"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from testbed.cli.common import LOCAL_INVENTORY, Output, add_verb

STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}


def check(args: argparse.Namespace, out: Output) -> int:
    """Ask every host whether it is fit to run; with --link send traffic over the shaped link."""
    from testbed.config import load_experiment, load_inventory
    from testbed.orchestrator.check import check as check_all

    inventory = load_inventory(args.inventory)
    experiment = load_experiment(args.experiment) if args.experiment else None
    findings = check_all(inventory, experiment, args.link, out.stage, args.lab)
    counts: Counter[str] = Counter(finding.state for finding in findings)

    def words() -> None:
        table = Table(box=None, pad_edge=False)
        for column in ("", "host", "check", "found"):
            table.add_column(column, overflow="fold")
        for finding in findings:
            remedy = f"\n→ {finding.remedy}" if finding.remedy else ""
            state = f"[{STYLES[finding.state]}]{finding.state}[/]"
            table.add_row(state, finding.host, finding.check, finding.text + remedy)
        out.console.print(table)
        print(", ".join(f"{counts[state]} {state}" for state in STYLES))

    document = {
        "ok": not counts["fail"],
        "counts": {state: counts[state] for state in STYLES},
        "findings": [asdict(finding) for finding in findings],
    }
    out.document(document, words)
    return 1 if counts["fail"] else 0


def add_verbs(verbs: Any) -> None:
    """Add ``check``."""
    verb = add_verb(verbs, "check", check)
    verb.add_argument("-i", "--inventory", type=Path, default=LOCAL_INVENTORY)
    verb.add_argument("-e", "--experiment", type=Path, help="also: what this experiment needs")
    verb.add_argument(
        "--lab", help="the virtual lab's id (default: the one that is up, or a new one)"
    )
    verb.add_argument(
        "--link", action="store_true", help="shape the link, measure it, and put it back"
    )
