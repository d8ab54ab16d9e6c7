"""What every verb shares: output for people or programs, options, the verb's parser."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

LOCAL_INVENTORY = Path("inventory/local.yaml")
RESULTS = Path("results")
PLOTS = (".png", ".pdf", ".svg")


class _Words(Console):
    """A console whose broken pipe is an OSError, as any stream's is."""

    def on_broken_pipe(self) -> None:
        """Raise it again: whether to go on without a listener is the verb's to decide."""
        raise  # rich calls this while it handles the BrokenPipeError


class Output:
    """One JSON document on stdout with ``--json``, words for people otherwise."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._stdout = sys.stdout
        # People's words go to stderr under --json, so that stdout stays one document.
        self.console = _Words(stderr=as_json, soft_wrap=True)

    def stage(self, text: str) -> None:
        """Tell people that a step begins."""
        self.console.print(f"· {text}", highlight=False)

    def document(self, document: Any, words: Callable[[], None]) -> None:
        """Print the document, or what ``words`` prints for people."""
        if self.as_json:
            print(json.dumps(document, indent=1, default=str), file=self._stdout)
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


def file_to_write(*endings: str, makes_folder: bool = False) -> Callable[[str], Path]:
    """An option type of a file that the verb writes at its end, refused here where it cannot be.

    Args:
        endings: what the name may end in, such as ``.png``; none: in anything.
        makes_folder: the writer makes the folders above the file.
    """

    def read(text: str) -> Path:
        path = Path(text)
        if endings and path.suffix not in endings:
            raise argparse.ArgumentTypeError(
                f"expected a name ending in {' or '.join(endings)}, got {text!r}"
            )
        if path.is_dir():
            raise argparse.ArgumentTypeError(f"expected a file's name, {text!r} is a folder")
        if path.exists():
            _refuse_unwritable(path)
        elif makes_folder:
            folder_to_write(str(path.parent))
        elif not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"{text!r}: there is no folder {path.parent}; make it")
        else:
            _refuse_unwritable(path.parent)
        return path

    return read


def folder_to_write(text: str) -> Path:
    """An option type of a folder that the verb makes or adds to, refused where it cannot."""
    path = Path(text)
    there = next(above for above in (path, *path.absolute().parents) if above.exists())
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, {str(there)!r} is a file")
    _refuse_unwritable(there)
    return path


def _refuse_unwritable(path: Path) -> None:
    if not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"{str(path)!r} cannot be written; choose another place")


def add_verb(verbs: Any, name: str, action: Callable[..., int]) -> argparse.ArgumentParser:
    """A verb's parser with ``--json``; its help is the first line of the action's docstring."""
    summary = (action.__doc__ or "").splitlines()[0]
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=summary)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(action=action)
    return parser
