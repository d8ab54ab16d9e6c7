"""``testbed plan|run|report``: a campaign from its files to its report."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from testbed.cli.common import LOCAL_INVENTORY, RESULTS, Output, add_verb, folder_to_write
from testbed.cli.sweep import report_sweep
from testbed.errors import TestbedError, UserError
from testbed.records import cannot_write, read_json
from testbed.units import format_duration, format_rate

if TYPE_CHECKING:
    from testbed.config import Experiment
    from testbed.orchestrator.campaign import Campaign


# Everything is written each time; the format says which of it is told.
_FORMATS = {"html": "report.html", "md": "report.md", "pdf-figures": "figures", "csv": "tables"}


def plan(args: argparse.Namespace, out: Output) -> int:
    """Show what would be run, and for how long, touching nothing."""
    from testbed.config import load_experiment, load_inventory
    from testbed.lab import uml
    from testbed.model.cache import prepare
    from testbed.orchestrator.campaign import load_traces
    from testbed.orchestrator.choosing import user_policies
    from testbed.orchestrator.link_bounds import capacity_doubts
    from testbed.orchestrator.link_plan import needs_netem, render_plan
    from testbed.orchestrator.plan import check_fleets, chosen, make_plan, schedule_json
    from testbed.orchestrator.roles import link_suffixes

    experiment, inventory = load_experiment(args.experiment), load_inventory(args.inventory)
    experiment = _as_asked(experiment, args)
    traces = load_traces(experiment)
    whole = make_plan(experiment, prepare(experiment.model).table, traces, link_suffixes(inventory))
    made = chosen(whole, args.only)
    check_fleets(experiment, inventory.hosts_of("device"))
    user_policies(experiment.every_policy, made.candidates)
    tc = render_plan(experiment, made.schedules)
    by_guest = inventory.lab == "local" and uml.wanted(inventory, needs_netem(experiment))
    doubts = capacity_doubts(made.schedules, uml.CARRIES_BPS) if by_guest else []
    document = {
        "runs": [asdict(run) for run in made.runs],
        "candidates": made.candidates,
        "estimated_s": made.estimated_ns / 1e9,
        "schedules": {
            link: {side: schedule_json(s) for side, s in sides.items()}
            for link, sides in made.schedules.items()
        },
        "tc": tc,
        "needs_netem": needs_netem(experiment),
        "doubts": doubts,
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
                used_as = f"; {s.used_as}" if s.used_as else ""
                print(f"link {link} {side}: {len(rates)} changes, {span}{used_as}")
                print("\n".join(f"  {line}" for line in tc[link][side]))
        for doubt in doubts:
            print(f"DOUBT: {doubt}")
        print(f"candidates: {', '.join(made.candidates)}")
        print(f"estimated: {format_duration(made.estimated_ns)} and the set-up")

    out.document(document, words)
    return 0


def run(args: argparse.Namespace, out: Output) -> int:
    """Run an experiment, or go on with an interrupted campaign, and write its report."""
    from testbed.config import load_inventory
    from testbed.orchestrator.campaign import Campaign
    from testbed.orchestrator.terminal import Logged, outliving_terminal
    from testbed.progress import Display

    experiment, files = _inputs(args)
    inventory = load_inventory(Path(files["inventory"]))
    with Display(out.console) as display:
        listener = Logged(display)
        campaign = Campaign(
            experiment,
            inventory,
            args.results,
            listener,
            allow_unverified=args.allow_unverified,
            only=args.only,
            resume=args.resume,
            files=files,
        )
        listener.keep_in(campaign.folder)
        failure: str | None = None
        with outliving_terminal():
            try:
                campaign.run()
            except KeyboardInterrupt:
                failure = "interrupted; what was measured is kept; go on: testbed run --resume DIR"
            except TestbedError as error:
                if not campaign.ledger.states:
                    raise
                failure = str(error)
    return _tell_campaign(campaign, failure, out)


def _inputs(args: argparse.Namespace) -> tuple[Experiment, dict[str, str]]:
    """The experiment, and the two files' names as given now or, to resume, then."""
    from testbed.config import load_experiment
    from testbed.orchestrator.inputs import kept

    if (args.experiment is None) == (args.resume is None):
        raise UserError("run: expected an experiment file or --resume CAMPAIGN, one of the two")
    files: dict[str, str] = {}
    if args.resume is not None:
        files = read_json(args.resume / "campaign.json").get("files", {})
        experiment = kept(args.resume)
    else:
        files = {"experiment": str(args.experiment)}
        experiment = load_experiment(args.experiment)
    files["inventory"] = str(args.inventory or files.get("inventory", LOCAL_INVENTORY))
    return _as_asked(experiment, args), files


def _as_asked(experiment: Experiment, args: argparse.Namespace) -> Experiment:
    """The experiment with what the command line changes of it."""
    for link, file in args.trace:
        experiment = experiment.with_uplink_trace(link, file)
    if args.trials is None:
        return experiment
    if args.trials < 1:
        raise UserError(f"--trials: expected 1 or more, got {args.trials}")
    repeated = experiment.run.model_copy(update={"trials": args.trials})
    return experiment.model_copy(update={"run": repeated})


def _link_trace(text: str) -> tuple[str, Path]:
    link, equals, file = text.partition("=")
    if not link or not equals or not file:
        raise argparse.ArgumentTypeError(f"expected LINK=FILE, got {text!r}")
    return link, Path(file)


def _tell_campaign(campaign: Campaign, failure: str | None, out: Output) -> int:
    ledger = campaign.ledger
    report, found = None, {"trusted": False, "reasons": ["nothing was measured"]}
    try:
        if ledger.states:
            report = _write_report(campaign.folder)
            found = verdict(report)
    except OSError as error:  # whatever failed before comes first
        told = str(cannot_write(campaign.folder / "report", error))
        report, found = None, {"trusted": False, "reasons": [told]}
        failure = failure or told
    document = {
        "campaign": str(campaign.folder),
        "report": str(report) if report else None,
        "runs": ledger.states,
        "states": ledger.tally(),
        "degraded": ledger.degraded,
        "verdict": found,
        "failure": failure,
    }

    def words() -> None:
        for state, count in ledger.tally().items():
            print(f"{count} {'run' if count == 1 else 'runs'}: {state}")
        tell_verdict(found)
        print(f"campaign: {campaign.folder}")
        if report:
            print(f"report: {report}")

    out.document(document, words)
    if failure:
        print(f"testbed: {failure}", file=sys.stderr)
    return 0 if found["trusted"] and not failure else 1


def report(args: argparse.Namespace, out: Output) -> int:
    """Write the report of a campaign or a sweep again, from its records."""
    from analysis.sweep import is_sweep
    from testbed.orchestrator.store import newest_campaign

    folder = args.campaign or newest_campaign(args.results)
    if is_sweep(folder):
        return report_sweep(folder, args.format, out)
    page = _write_report(folder)
    found = verdict(page)
    path = page.parent / _FORMATS[args.format]

    def words() -> None:
        tell_verdict(found)
        print(f"report: {path}")

    out.document({"report": str(path), "verdict": found}, words)
    return 0 if found["trusted"] else 1


def _write_report(folder: Path) -> Path:
    from analysis.report import write_report

    return write_report(folder)


def verdict(report: Path) -> dict[str, Any]:
    """Whether a report's figures can be trusted, as its summary says."""
    found: dict[str, Any] = read_json(report.parent / "summary.json", "verdict")["verdict"]
    return found


def tell_verdict(found: dict[str, Any]) -> None:
    """Print the verdict for people."""
    if found["trusted"]:
        print("VALID")
        return
    print("NOT TO BE TRUSTED:")
    for reason in found["reasons"]:
        print(f"  {reason}")


def add_verbs(verbs: Any) -> None:
    """Add ``plan``, ``run`` and ``report``."""
    for name, action in (("plan", plan), ("run", run)):
        verb = add_verb(verbs, name, action)
        optional: dict[str, Any] = {"nargs": "?"} if action is run else {}
        verb.add_argument("experiment", type=Path, help="the experiment's YAML file", **optional)
        default = None if action is run else LOCAL_INVENTORY
        verb.add_argument("-i", "--inventory", type=Path, default=default)
        verb.add_argument("--trials", type=int, help="instead of the experiment's own")
        verb.add_argument(
            "--trace",
            action="append",
            default=[],
            type=_link_trace,
            metavar="LINK=FILE",
            help="let a link's uplink follow this bandwidth trace instead (may be repeated)",
        )
        verb.add_argument(
            "--only",
            action="append",
            default=[],
            metavar="PATTERN",
            help="only runs whose id or policy matches (may be repeated)",
        )
        if action is run:
            verb.add_argument(
                "--resume", type=Path, metavar="CAMPAIGN", help="go on; complete runs stay"
            )
            verb.add_argument(
                "--results", type=folder_to_write, default=RESULTS, help="where to keep results"
            )
            verb.add_argument(
                "--allow-unverified",
                action="store_true",
                help="go on over a link that is not as asked; every result then says so",
            )
    verb = add_verb(verbs, "report", report)
    told = "folder of a campaign (default: the newest) or sweep"
    verb.add_argument("campaign", type=Path, nargs="?", help=told)
    verb.add_argument("--results", type=Path, default=RESULTS)
    verb.add_argument(
        "--format", choices=_FORMATS, default="html", help="what to print the path of"
    )
