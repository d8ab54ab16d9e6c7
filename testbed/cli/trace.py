"""``testbed trace``: show, convert and generate bandwidth traces."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from testbed.cli.common import Output, add_verb, quantity
from testbed.traces.generate import KINDS
from testbed.units import parse_duration_ns, parse_rate_bps


def show(args: argparse.Namespace, out: Output) -> int:
    """Summarise a bandwidth trace."""
    from testbed.traces.formats import load_trace
    from testbed.traces.show import render, summarise

    trace = load_trace(args.file)
    out.document(summarise(trace), lambda: print(render(trace)))
    return 0


def convert(args: argparse.Namespace, out: Output) -> int:
    """Convert a bandwidth trace to the testbed's CSV."""
    from testbed.traces.formats import load_trace, save_trace

    trace = load_trace(args.file)
    save_trace(trace, args.out)
    out.document({"written": str(args.out)}, lambda: print(f"written: {args.out}"))
    return 0


def generate(args: argparse.Namespace, out: Output) -> int:
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


def add_verbs(verbs: Any) -> None:
    """Add ``trace`` and its verbs."""
    trace = verbs.add_parser("trace", help="Show, convert and generate bandwidth traces.")
    kinds = trace.add_subparsers(required=True, metavar="VERB")
    add_verb(kinds, "show", show).add_argument("file", type=Path)
    verb = add_verb(kinds, "convert", convert)
    verb.add_argument("file", type=Path)
    verb.add_argument("out", type=Path)
    verb = add_verb(kinds, "generate", generate)
    verb.add_argument("kind", choices=KINDS)
    verb.add_argument("out", type=Path)
    verb.add_argument("--duration", type=quantity(parse_duration_ns), default="60s")
    verb.add_argument("--seed", type=int, default=1)
    verb.add_argument("--min", type=quantity(parse_rate_bps), default="1mbit")
    verb.add_argument("--max", type=quantity(parse_rate_bps), default="40mbit")
    verb.add_argument("--down-min", type=quantity(parse_rate_bps), help="default: as --min")
    verb.add_argument("--down-max", type=quantity(parse_rate_bps), help="default: as --max")
