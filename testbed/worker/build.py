"""The build role: makes a host's archive of a model by the library that is installed there.

A process of its own, which ends before anything is measured: exporting takes memory that a worker
needs for better things.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from testbed.control import Control, Message
from testbed.errors import UserError
from testbed.model.cache import built_by, prepare
from testbed.worker.host import greeting

# The oldest tried; 2.2 has a torch.export too, which takes the number of images for a constant.
TORCH_MINIMUM = (2, 4)


@dataclass(frozen=True)
class Recipe:
    """A model whose weights, a file on this host, are the orchestrator's."""

    name: str
    resolution: int
    weights: str
    granularity: str
    seed: int = 0
    carry: str = "archive"


class BuildRole:
    """Builds what it is told to; what it has built before it finds in the host's cache."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def hello(self) -> Message:
        """Versions and facts sent with the greeting."""
        return greeting()

    def handle(self, message: Message) -> None:
        """Act on ``build``."""
        if message["type"] != "build":
            raise UserError(f"build: unknown message {message['type']!r}")
        release = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
        if release < TORCH_MINIMUM:
            raise UserError(
                f"model.carry: library needs torch ≥ {'.'.join(map(str, TORCH_MINIMUM))}, got "
                f"{torch.__version__}; install a newer torch here, or take carry: archive"
            )
        weights = str(Path(message["weights"]).expanduser())
        recipe = Recipe(**message["model"], weights=weights)
        with _ended_by(self._control.stopping):
            made = prepare(recipe)
        self._control.send(
            "built",
            archive=str(made.archive),
            archive_sha256=made.archive_sha256,
            table=made.table.to_json(),
            built_by=built_by(recipe),
        )

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def _ended_by(stopping: threading.Event) -> Iterator[None]:
    """End the process, what it has begun tidied up, when its work inside is wanted no more.

    An export looks at nothing while it lasts; a signal's handler is heard between any two steps.
    """
    over = threading.Event()

    def watch() -> None:
        stopping.wait()
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    threading.Thread(target=watch, name="ending", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.signal(signal.SIGTERM, before)
