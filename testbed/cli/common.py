"""What every verb shares: output for people or programs, options, the verb's parser."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

LOCAL_INVENTORY = Path("inventory/local.yaml")
RESULTS = Path("results")


class _Words(Console):
    """A console whose broken pipe is an OSError, as any stream's is."""

    def on_broken_pipe(self) -> None:
        """Raise it again: whether to go on without a listener is the verb's to decide."""
        raise  # rich calls this while it handles the BrokenPipeError


class Output:
    """One JSON document on stdout with ``--json``, words for people otherwise."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        # People's words go to stderr under --json, so that stdout stays one document.
        self.console = _Words(stderr=as_json, soft_wrap=True)

    def stage(self, text: str) -> None:
        """Tell people that a step begins."""
        self.console.print(f"· {text}", highlight=False)

    def document(self, document: Any, words: Callable[[], None]) -> None:
        """Print the document, or what ``words`` prints for people."""
        if self.as_json:
            print(json.dumps(document, indent=1, default=str))
        else:
            words()


def quantity(parse: Callable[[object], int]) -> Callable[[str], int]:
    """An option type that parses a quantity and tells argparse what was expected."""

    def read(text: str) -> int:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def add_verb(verbs: Any, name: str, action: Callable[..., int]) -> argparse.ArgumentParser:
    """A verb's parser with ``--json``; its help is the first line of the action's docstring."""
    summary = (action.__doc__ or "").splitlines()[0]
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=summary)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(action=action)
    return parser
