"""The command line, verbs in the order of the work; the only place that prints and exits.

Exit status: 0 done; 1 ran, but something failed or is not to be trusted; 2 the caller's mistake.
With ``--json`` standard output carries one JSON document and nothing else.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from testbed import __version__
from testbed.errors import TestbedError, UserError
from testbed.traces.generate import KINDS
from testbed.units import format_duration, format_rate, parse_duration_ns, parse_rate_bps

LOCAL_INVENTORY = Path("inventory/local.yaml")
RESULTS = Path("results")


class Output:
    """One JSON document on stdout with ``--json``, words for people otherwise."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        # People's words go to stderr under --json, so that stdout stays one document.
        self.console = Console(stderr=as_json, soft_wrap=True)

    def document(self, document: Any, words: Callable[[], None]) -> None:
        """Print the document, or what ``words`` prints for people."""
        if self.as_json:
            print(json.dumps(document, indent=1, default=str))
        else:
            words()


def trace_show(args: argparse.Namespace, out: Output) -> int:
    """Summarise a bandwidth trace."""
    from testbed.traces.formats import load_trace
    from testbed.traces.show import render, summarise

    trace = load_trace(args.file)
    out.document(summarise(trace), lambda: print(render(trace)))
    return 0


def trace_convert(args: argparse.Namespace, out: Output) -> int:
    """Convert a bandwidth trace to the testbed's CSV."""
    from testbed.traces.formats import load_trace, save_trace

    trace = load_trace(args.file)
    save_trace(trace, args.out)
    out.document({"written": str(args.out)}, lambda: print(f"written: {args.out}"))
    return 0


def trace_generate(args: argparse.Namespace, out: Output) -> int:
    """Generate a synthetic bandwidth trace from a seed."""
    from testbed.traces.formats import save_trace
    from testbed.traces.generate import generate

    trace = generate(
        args.kind,
        duration_ns=args.duration,
        seed=args.seed,
        min_bps=args.min,
        max_bps=args.max,
        down_min_bps=args.down_min,
        down_max_bps=args.down_max,
    )
    save_trace(trace, args.out)
    out.document({"written": str(args.out)}, lambda: print(f"written: {args.out}"))
    return 0


def lab_up(args: argparse.Namespace, out: Output) -> int:
    """Make a virtual lab that stays until ``lab down``."""
    from testbed.config import load_inventory
    from testbed.lab import Lab

    inventory = load_inventory(args.inventory)
    if inventory.lab is None:
        raise UserError(f"{args.inventory}: lab: expected local, got nothing; these hosts are real")
    lab = Lab.up(inventory)
    document = {"lab": lab.lab_id, "inventory": lab.inventory.model_dump(mode="json")}
    out.document(document, lambda: print(f"lab {lab.lab_id} is up; end it: testbed lab down"))
    return 0


def lab_down(args: argparse.Namespace, out: Output) -> int:
    """Remove a virtual lab, whatever became of the process that made it."""
    from testbed import lab

    labs = [found["lab"] for found in lab.status()]
    if not args.all and args.lab is None and len(labs) > 1:
        raise UserError(f"several labs are up: {', '.join(labs)}; name one, or say --all")
    if args.all:
        removed = lab.down_all()
    else:
        removed = [item for name in ([args.lab] if args.lab else labs) for item in lab.down(name)]
    out.document(
        {"removed": removed},
        lambda: print("\n".join(f"removed {item}" for item in removed) or "nothing to remove"),
    )
    return 0


def lab_status(args: argparse.Namespace, out: Output) -> int:
    """Tell which virtual labs are up."""
    from testbed import lab

    found = lab.status()

    def words() -> None:
        if not found:
            print("no lab is up")
        for entry in found:
            print(f"lab {entry['lab']}")
            for name, host in entry["hosts"].items():
                print(f"  {name}: {', '.join(f'{k} {v}' for k, v in host.items())}")

    out.document({"labs": found}, words)
    return 0


def lab_shell(args: argparse.Namespace, out: Output) -> int:
    """Open a shell in a lab host, or run a command there."""
    from testbed import lab

    return lab.shell(args.host, args.lab, args.command or None)


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
        campaign = Campaign(experiment, inventory, args.results, display)
        failure: str | None = None
        with _signals_interrupt():
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
def _signals_interrupt() -> Any:
    """Let TERM and HUP end a campaign as Ctrl-C does: stop, restore, keep."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {s: signal.signal(s, interrupt) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _quantity(parse: Callable[[object], int]) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _verb(verbs: Any, name: str, action: Callable[..., int]) -> argparse.ArgumentParser:
    summary = (action.__doc__ or "").splitlines()[0]
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=summary)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(action=action)
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="testbed", description="Measure dynamic split computing on real hosts and links."
    )
    parser.add_argument("--version", action="version", version=f"testbed {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _trace_verbs(verbs)
    _lab_verbs(verbs)
    for name, action in (("plan", plan), ("run", run)):
        verb = _verb(verbs, name, action)
        verb.add_argument("experiment", type=Path, help="the experiment's YAML file")
        verb.add_argument("-i", "--inventory", type=Path, default=LOCAL_INVENTORY)
        if action is run:
            verb.add_argument("--results", type=Path, default=RESULTS, help="where to keep results")
    verb = _verb(verbs, "report", report)
    verb.add_argument("campaign", type=Path, nargs="?", help="campaign folder (default: newest)")
    verb.add_argument("--results", type=Path, default=RESULTS)
    return parser


def _trace_verbs(verbs: Any) -> None:
    trace = verbs.add_parser("trace", help="Show, convert and generate bandwidth traces.")
    kinds = trace.add_subparsers(required=True, metavar="VERB")
    _verb(kinds, "show", trace_show).add_argument("file", type=Path)
    convert = _verb(kinds, "convert", trace_convert)
    convert.add_argument("file", type=Path)
    convert.add_argument("out", type=Path)
    generate = _verb(kinds, "generate", trace_generate)
    generate.add_argument("kind", choices=KINDS)
    generate.add_argument("out", type=Path)
    generate.add_argument("--duration", type=_quantity(parse_duration_ns), default="60s")
    generate.add_argument("--seed", type=int, default=1)
    generate.add_argument("--min", type=_quantity(parse_rate_bps), default="1mbit")
    generate.add_argument("--max", type=_quantity(parse_rate_bps), default="40mbit")
    generate.add_argument("--down-min", type=_quantity(parse_rate_bps), help="default: as --min")
    generate.add_argument("--down-max", type=_quantity(parse_rate_bps), help="default: as --max")


def _lab_verbs(verbs: Any) -> None:
    lab = verbs.add_parser("lab", help="Make, show, enter and remove virtual labs.")
    kinds = lab.add_subparsers(required=True, metavar="VERB")
    _verb(kinds, "up", lab_up).add_argument("-i", "--inventory", type=Path, default=LOCAL_INVENTORY)
    down = _verb(kinds, "down", lab_down)
    down.add_argument("lab", nargs="?", help="the lab's id (default: the only one)")
    down.add_argument("--all", action="store_true", help="every lab on this machine")
    _verb(kinds, "status", lab_status)
    shell = _verb(kinds, "shell", lab_shell)
    shell.add_argument("host")
    shell.add_argument("--lab", help="the lab's id (default: the only one)")
    shell.add_argument("command", nargs=argparse.REMAINDER, help="a command in place of a shell")


def main(argv: list[str] | None = None) -> int:
    """Entry point of the ``testbed`` command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.action(args, Output(args.json))
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("testbed: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
