"""``testbed trace``: show, convert and generate bandwidth traces."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from testbed.cli.common import PLOTS, Output, add_verb, file_to_write, quantity
from testbed.errors import UserError
from testbed.traces.generate import KINDS
from testbed.traces.importers import FORMATS
from testbed.traces.importers.columns import TIME_UNITS
from testbed.traces.importers.source import UNITS_BPS, Request
from testbed.units import format_duration, parse_duration_ns, parse_rate_bps


def show(args: argparse.Namespace, out: Output) -> int:
    """Summarise a bandwidth trace of any known format, and draw it with --plot."""
    from testbed.traces.importers import import_trace
    from testbed.traces.show import render, summarise

    found = import_trace(args.file, _request(args))
    if args.plot is not None:
        from analysis.figures.trace import write_trace_figure

        write_trace_figure(found.trace, args.plot)

    def words() -> None:
        print(render(found.trace))
        print(_told(found.sidecar))

    out.document({**summarise(found.trace), "import": found.sidecar}, words)
    return 0


def convert(args: argparse.Namespace, out: Output) -> int:
    """Convert a bandwidth trace to the testbed's CSV, its origin in a sidecar (OUT.json)."""
    from testbed.traces.canonical import save_imported
    from testbed.traces.importers import import_trace

    if args.out.exists() and args.out.samefile(args.file):
        raise UserError(f"{args.out}: expected another name than the original's")
    found = import_trace(args.file, _request(args))
    save_imported(found.trace, found.sidecar, args.out)

    def words() -> None:
        print(_told(found.sidecar))
        print(f"written: {args.out}")

    out.document({"written": str(args.out), **found.sidecar}, words)
    return 0


def generate(args: argparse.Namespace, out: Output) -> int:
    """Generate a synthetic bandwidth trace from a seed."""
    from testbed.traces.canonical import save_trace
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


def _request(args: argparse.Namespace) -> Request:
    sides = {"up": args.up_column, "down": args.down_column}
    return Request(
        format=args.format,
        direction=args.direction,
        select=dict(args.select),
        skip_bad=args.skip_bad,
        gaps=args.gaps,
        unit=args.unit,
        columns={side: column for side, column in sides.items() if column is not None},
        time=args.time,
        time_unit=args.time_unit,
        step_ns=args.step,
        floor_bps=args.floor,
    )


def _told(sidecar: dict[str, Any]) -> str:
    """What was read and what was done to it, for people."""
    gaps = sidecar["gaps"]
    told = f"format {sidecar['format']}, {' and '.join(sidecar['directions'])}; {sidecar['method']}"
    if gaps["count"]:
        total = format_duration(gaps["total_ns"])
        told += f"\n{gaps['count']} gaps, {total} in all, longest "
        told += f"{format_duration(gaps['longest_ns'])}: {gaps['policy']}"
    if sidecar["skipped_lines"]:
        told += f"\n{sidecar['skipped_lines']} malformed left out"
    return told


def _selector(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE such as run=3, got {text!r}")
    return key, value


def _positive(parse: Any) -> Any:
    read = quantity(parse)

    def positive(text: str) -> int:
        value = read(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"expected more than 0, got {text!r}")
        return value

    return positive


def _add_import_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("file", type=Path)
    verb.add_argument("--format", choices=FORMATS, help="default: by content, where that is sure")
    verb.add_argument("--direction", choices=("up", "down"), help="where the file does not tell")
    verb.add_argument(
        "--select", type=_selector, action="append", default=[], metavar="KEY=VALUE",
        help="which run of a file with several, such as run=3",
    )  # fmt: skip
    verb.add_argument("--skip-bad", action="store_true", help="leave malformed lines out, counted")
    verb.add_argument(
        "--gaps", choices=("hold", "zero", "refuse"), help="what a gap gets (default: hold)"
    )
    verb.add_argument(
        "--step", type=_positive(parse_duration_ns), help="resample, conserving bytes"
    )
    verb.add_argument("--floor", type=_positive(parse_rate_bps), help="raise lower rates to this")
    verb.add_argument("--unit", choices=UNITS_BPS, help="of the rates (formats csv and cooked)")
    csv = verb.add_argument_group("for --format csv")
    csv.add_argument("--up-column", metavar="NAME")
    csv.add_argument("--down-column", metavar="NAME")
    csv.add_argument("--time", metavar="NAME", help="the column of times")
    csv.add_argument("--time-unit", choices=TIME_UNITS)


def add_verbs(verbs: Any) -> None:
    """Add ``trace`` and its verbs."""
    trace = verbs.add_parser("trace", help="Show, convert and generate bandwidth traces.")
    kinds = trace.add_subparsers(required=True, metavar="VERB")
    verb = add_verb(kinds, "show", show)
    _add_import_options(verb)
    plot = file_to_write(*PLOTS)
    verb.add_argument("--plot", type=plot, metavar="FILE", help="draw it: *.png, *.pdf or *.svg")
    verb = add_verb(kinds, "convert", convert)
    _add_import_options(verb)
    verb.add_argument("out", type=file_to_write(".csv"))
    verb = add_verb(kinds, "generate", generate)
    verb.add_argument("kind", choices=KINDS)
    verb.add_argument("out", type=file_to_write(".csv"))
    verb.add_argument("--duration", type=quantity(parse_duration_ns), default="60s")
    verb.add_argument("--seed", type=int, default=1)
    verb.add_argument("--min", type=quantity(parse_rate_bps), default="1mbit")
    verb.add_argument("--max", type=quantity(parse_rate_bps), default="40mbit")
    verb.add_argument("--down-min", type=quantity(parse_rate_bps), help="default: as --min")
    verb.add_argument("--down-max", type=quantity(parse_rate_bps), help="default: as --max")
