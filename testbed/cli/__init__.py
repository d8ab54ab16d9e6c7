"""The command line, verbs in the order of the work; the only place that prints and exits.

Exit status: 0 done; 1 ran, but something failed or is not to be trusted; 2 the caller's mistake.
With ``--json`` standard output carries one JSON document and nothing else.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import NoReturn

from testbed import __version__
from testbed.errors import TestbedError, UserError


class _Parser(argparse.ArgumentParser):
    """One line for a mistake; ``--help`` has the rest."""

    def error(self, message: str) -> NoReturn:
        if "--json" in sys.argv:
            print(json.dumps({"error": message, "exit_status": UserError.exit_code}))
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    # Imported here, where a signal already ends in one line.
    from testbed.cli import campaign, check, lab, link, model, results, sweep, trace

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
    as_json = "--json" in (sys.argv if argv is None else argv)
    # At the end Python looks for garbage among millions of torch's objects: a second for nothing.
    atexit.register(gc.freeze)
    with _signals_interrupt():
        try:
            args = _parser().parse_args(argv)
            as_json = args.json
            return _act(args)
        except TestbedError as error:
            return _failed(as_json, str(error), error.exit_code)
        except KeyboardInterrupt:
            return _failed(as_json, "interrupted", 1)
        except BrokenPipeError:
            return 1
        except OSError as error:
            return _failed(as_json, f"{error.filename or 'output'}: {error.strerror}", 1)


def _act(args: argparse.Namespace) -> int:
    from testbed.cli.common import Output

    out = Output(args.json)
    # A model's own code prints as it likes, and so does a download: under --json not to stdout.
    with redirect_stdout(sys.stderr if args.json else sys.stdout):
        status: int = args.action(args, out)
    sys.stdout.flush()  # here, where what it cannot take is told in one line
    return status


def _failed(as_json: bool, message: str, status: int) -> int:
    try:
        print(f"testbed: {message}", file=sys.stderr)
        if as_json:
            print(json.dumps({"error": message, "exit_status": status}))
        sys.stdout.flush()
    except OSError:  # nobody reads, or the disk is full: the exit status is what is left
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
    return status


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let TERM and HUP end a verb as Ctrl-C does: stop, restore, keep; what is ignored stays so."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    heeded = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
