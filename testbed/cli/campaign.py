"""``testbed plan|run|report``: a campaign from its files to its report."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from testbed.cli.common import LOCAL_INVENTORY, RESULTS, Output, add_verb
from testbed.errors import TestbedError
from testbed.units import format_duration, format_rate


def plan(args: argparse.Namespace, out: Output) -> int:
    """Show what would be run, and for how long, touching nothing."""
    from testbed.config import load_experiment, load_inventory
    from testbed.model.cache import prepare
    from testbed.orchestrator.campaign import load_traces, refuse_unshapeable
    from testbed.orchestrator.plan import make_plan, schedule_json

    experiment, inventory = load_experiment(args.experiment), load_inventory(args.inventory)
    refuse_unshapeable(experiment)
    traces = load_traces(experiment)
    made = make_plan(experiment, prepare(experiment.model).table, traces)
    document = {
        "runs": [asdict(run) for run in made.runs],
        "candidates": made.candidates,
        "estimated_s": made.estimated_ns / 1e9,
        "schedules": {
            link: {side: schedule_json(s) for side, s in sides.items()}
            for link, sides in made.schedules.items()
        },
        "hosts": {name: host.roles for name, host in inventory.hosts.items()},
    }

    def words() -> None:
        table = Table(title=f"{experiment.name}: {len(made.runs)} runs", title_justify="left")
        for column in ("run", "link", "load", "policy", "trial"):
            table.add_column(column)
        for run in made.runs:
            table.add_row(str(run.index + 1), run.link, run.load, run.policy, str(run.trial))
        out.console.print(table)
        for link, sides in made.schedules.items():
            for side, s in sides.items():
                rates = [rate for _, rate in s.changes]
                span = f"{format_rate(min(rates))} to {format_rate(max(rates))}"
                print(f"link {link} {side}: {len(rates)} changes, {span}")
        print(f"candidates: {', '.join(made.candidates)}")
        print(f"estimated: {format_duration(made.estimated_ns)} and the set-up")

    out.document(document, words)
    return 0


def run(args: argparse.Namespace, out: Output) -> int:
    """Run an experiment and write its report."""
    from testbed.config import load_experiment, load_inventory
    from testbed.orchestrator.campaign import Campaign
    from testbed.progress import Display

    experiment, inventory = load_experiment(args.experiment), load_inventory(args.inventory)
    with Display(out.console) as display:
        campaign = Campaign(
            experiment, inventory, args.results, display, allow_unverified=args.allow_unverified
        )
        failure: str | None = None
        with signals_interrupt():
            try:
                campaign.run()
            except KeyboardInterrupt:
                failure = "interrupted; what was measured is kept"
            except TestbedError as error:
                if not campaign.states:
                    raise
                failure = str(error)
    report = _write_report(campaign.folder) if campaign.states else None
    failed = {name: state for name, state in campaign.states.items() if state != "complete"}
    document = {
        "campaign": str(campaign.folder),
        "report": str(report) if report else None,
        "runs": campaign.states,
        "degraded": campaign.degraded,
        "failure": failure,
    }

    def words() -> None:
        for name, state in failed.items():
            print(f"{state}: {name}")
        if campaign.degraded:
            print(f"{len(campaign.degraded)} runs were disturbed; the report says how")
        print(f"campaign: {campaign.folder}")
        if report:
            print(f"report: {report}")

    out.document(document, words)
    if failure:
        print(f"testbed: {failure}", file=sys.stderr)
    return 1 if failure or failed else 0


def report(args: argparse.Namespace, out: Output) -> int:
    """Write the report of a campaign again, from its records."""
    from testbed.orchestrator.store import newest_campaign

    folder = args.campaign or newest_campaign(args.results)
    path = _write_report(folder)
    out.document({"report": str(path)}, lambda: print(f"report: {path}"))
    return 0


def _write_report(folder: Path) -> Path:
    from analysis.report import write_report

    return write_report(folder)


@contextmanager
def signals_interrupt() -> Any:
    """Let TERM and HUP end a campaign as Ctrl-C does: stop, restore, keep."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {s: signal.signal(s, interrupt) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def add_verbs(verbs: Any) -> None:
    """Add ``plan``, ``run`` and ``report``."""
    for name, action in (("plan", plan), ("run", run)):
        verb = add_verb(verbs, name, action)
        verb.add_argument("experiment", type=Path, help="the experiment's YAML file")
        verb.add_argument("-i", "--inventory", type=Path, default=LOCAL_INVENTORY)
        if action is run:
            verb.add_argument("--results", type=Path, default=RESULTS, help="where to keep results")
            verb.add_argument(
                "--allow-unverified",
                action="store_true",
                help="go on over a link that is not as asked; every result then says so",
            )
    verb = add_verb(verbs, "report", report)
    verb.add_argument("campaign", type=Path, nargs="?", help="campaign folder (default: newest)")
    verb.add_argument("--results", type=Path, default=RESULTS)
