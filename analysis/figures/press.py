"""Draws figures into files in a process of its own, while another goes on with the tables.

Run as a module it reads from stdin one name of a pickled figure a line, writes the figure's files
beside it under the same stem, and ends with its input. It knows matplotlib alone, so that it starts
as fast as that does.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import matplotlib as mpl
from matplotlib.figure import Figure

RC: Any = {
    "svg.hashsalt": "testbed",
    "svg.fonttype": "path",
    "pdf.fonttype": 3,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
}
PNG_DPI = 150
# Without dates, so that the same figure gives the same bytes.
_METADATA: dict[str, Any] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
}


class Press:
    """The other process, as a context: figures are put in, and are files at its end."""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="testbed-figures-")
        path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        # In a session of its own, Ctrl-C meets only the process that has a user.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "analysis.figures.press"],
            stdin=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            start_new_session=True,
        )
        return self

    def put(self, name: str, figure: Figure, kinds: tuple[str, ...]) -> None:
        """Have a figure drawn as each of ``kinds`` (``png``, ``pdf``, ``svg``)."""
        work = Path(self._folder.name) / f"{name}.figure"
        work.write_bytes(pickle.dumps((figure, kinds), pickle.HIGHEST_PROTOCOL))
        assert self._process.stdin is not None
        try:
            print(work, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            self._failed()

    def finish(self) -> Path:
        """Wait for the last figure; returns the folder of the files, there until the context ends.

        Raises RuntimeError where one could not be drawn (why is on stderr).
        """
        self._process.communicate()
        if self._process.returncode:
            self._failed()
        return Path(self._folder.name)

    def _failed(self) -> None:
        code = self._process.wait()
        raise RuntimeError(f"the process that draws the figures ended with {code}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        self._folder.cleanup()


def _print(work: Path) -> None:
    figure, kinds = pickle.loads(work.read_bytes())
    work.unlink()
    figure.set_dpi(PNG_DPI)
    # Laid out once, for the PNG: the files show the same picture, and none is drawn twice.
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)
        figure.set_layout_engine(None)
    for kind in kinds:
        file = work.with_suffix(f".{kind}")
        figure.savefig(file, format=kind, dpi=PNG_DPI, metadata=_METADATA[kind])


if __name__ == "__main__":
    # A figure is garbage when it is drawn, and then alone: searching amid one finds nothing.
    gc.freeze()
    gc.disable()
    with mpl.rc_context(RC):
        for line in sys.stdin:
            _print(Path(line.rstrip("\n")))
            gc.collect()
