"""A page's figures: files in a folder, and what the page shows of each."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

from analysis.figures.press import Press
from analysis.figures.style import Drawing

# A page stays under 3 MB; figures beyond this many inline bytes are linked to instead.
_INLINE_BYTES = 2_600_000
_DECIMALS = 6  # of a figure's data: of a millisecond a nanosecond
# Beyond so many rows of data an SVG is never the smaller picture, and is not drawn.
_VECTOR_ROWS = 5_000
_MIME = {"png": "image/png", "svg": "image/svg+xml"}


class Gallery:
    """Figures that a press draws as they are hung; :meth:`save` writes the files."""

    def __init__(self, press: Press) -> None:
        self._press = press
        self._drawings: list[Drawing] = []

    def hang(self, drawings: Iterable[Drawing]) -> list[Drawing]:
        """Have figures drawn, while this process goes on; returns them."""
        hung = list(drawings)
        for drawing in hung:
            self._press.put(drawing.name, drawing.figure, _kinds(drawing))
        self._drawings += hung
        return hung

    def save(self, folder: Path) -> dict[str, str]:
        """Write PNG, PDF and data (CSV) of every figure; returns each one's source in the page.

        Inline while the page stays small; empty for a figure that is not in the page.
        """
        for drawing in self._drawings:
            if drawing.data is not None:
                table = pa.Table.from_pandas(drawing.data.round(_DECIMALS), preserve_index=False)
                pa_csv.write_csv(table, folder / f"{drawing.name}.csv")
        made, spent, sources = self._press.finish(), 0, {}
        for drawing in self._drawings:
            for kind in ("png", "pdf"):
                name = f"{drawing.name}.{kind}"
                shutil.copyfile(made / name, folder / name)
            if not drawing.in_page:
                sources[drawing.name] = ""
                continue
            files = [made / f"{drawing.name}.{kind}" for kind in _kinds(drawing) if kind in _MIME]
            shown = min(files, key=lambda file: file.stat().st_size)
            coded = base64.b64encode(shown.read_bytes()).decode()
            spent += len(coded)
            inline = f"data:{_MIME[shown.suffix[1:]]};base64,{coded}"
            sources[drawing.name] = (
                inline if spent <= _INLINE_BYTES else f"figures/{drawing.name}.png"
            )
        return sources


def _kinds(drawing: Drawing) -> tuple[str, ...]:
    """PNG and PDF, and SVG where the page may show it: it shows the smaller picture."""
    rows = 0 if drawing.data is None else len(drawing.data)
    vector = drawing.in_page and rows <= _VECTOR_ROWS
    return ("png", "pdf", "svg") if vector else ("png", "pdf")
