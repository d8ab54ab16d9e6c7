"""The command line, verbs in the order of the work; the only place that prints and exits.

Exit status: 0 done; 1 ran, but something failed or is not to be trusted; 2 the caller's mistake.
With ``--json`` standard output carries one JSON document and nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import NoReturn

from testbed import __version__
from testbed.cli import campaign, check, lab, link, model, results, sweep, trace
from testbed.cli.common import Output
from testbed.errors import TestbedError, UserError


class _Parser(argparse.ArgumentParser):
    """One line for a mistake; ``--help`` has the rest."""

    def error(self, message: str) -> NoReturn:
        if "--json" in sys.argv:
            print(json.dumps({"error": message, "exit_status": UserError.exit_code}))
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="testbed", description="Measure dynamic split computing on real hosts and links."
    )
    parser.add_argument("--version", action="version", version=f"testbed {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for family in (trace, model, lab, check, link, campaign, results, sweep):
        family.add_verbs(verbs)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of the ``testbed`` command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.action(args, Output(args.json))
    except TestbedError as error:
        return _failed(args, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _failed(args, "interrupted", 1)
    except BrokenPipeError:
        return 1
    except OSError as error:
        return _failed(args, f"{error.filename or 'output'}: {error.strerror}", 1)
    return status


def _failed(args: argparse.Namespace, message: str, status: int) -> int:
    print(f"testbed: {message}", file=sys.stderr)
    if args.json:
        print(json.dumps({"error": message, "exit_status": status}))
    return status
