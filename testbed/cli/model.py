"""``testbed models|bottlenecks``: which networks there are, and where each can be cut."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from testbed.cli.common import PLOTS, Output, add_verb, file_to_write
from testbed.records import SCHEMA_VERSION

if TYPE_CHECKING:
    from testbed.config.survey import Survey
    from testbed.model.bottlenecks import Bottlenecks

_FILE_COLUMNS = 150
_COLLECT_AT = 200_000  # objects more; Python's own 700 costs a tenth of the time


def models(args: argparse.Namespace, out: Output) -> int:
    """List the models of torchvision and timm."""
    from testbed.model.zoo import list_models

    names = list_models(args.pattern)
    document = {"schema_version": SCHEMA_VERSION, "models": names}
    out.document(document, lambda: print("\n".join(names) or f"no model matches {args.pattern!r}"))
    return 0 if names else 1


def bottlenecks(args: argparse.Namespace, out: Output) -> int:
    """Show where models can be cut, and what would cross, without weights."""
    if (args.list is None) == (not args.models):
        args.parser.error("expected either MODEL names or --list FILE")
    survey = _survey(args.list) if args.list is not None else None
    granularity = args.granularity or (survey.granularity if survey else "block")
    # Imports and traces make objects by the million, of which hardly any is garbage.
    gc.set_threshold(_COLLECT_AT)
    found = _find(survey.models if survey else args.models, args.resolution, granularity, out)
    documents = [one.to_json() for one in found]
    if args.plot is not None:
        from analysis.figures.bottlenecks import save_plot

        save_plot(documents, args.plot)
    if args.page is not None:
        from analysis.bottlenecks import write_page

        name, description = (survey.name, survey.description) if survey else ("bottlenecks", "")
        write_page(documents, name, description, args.page)
    many = {"schema_version": SCHEMA_VERSION, "models": documents}

    def words() -> None:
        if not out.console.is_terminal:  # a file or a pipe: one line a row
            out.console.width = _FILE_COLUMNS
        if len(found) == 1:
            out.console.print(_one(found[0], args.batch))
            print(_counted(found[0]))
        else:
            out.console.print(_comparison(found, args.batch))
        if args.plot is not None:
            print(f"figure: {args.plot}")
        if args.page is not None:
            print(f"page: {args.page}")

    out.document(documents[0] if len(documents) == 1 else many, words)
    return 0


def _survey(path: Path) -> Survey:
    from testbed.config.survey import load_survey  # half a second, which a name alone does not need

    return load_survey(path)


def _find(
    models: Sequence[str], resolution: int | None, granularity: str, out: Output
) -> list[Bottlenecks]:
    from testbed.model.bottlenecks import find_bottlenecks

    found = []
    with _progress(models, out) as advance:
        for name in models:
            found.append(find_bottlenecks(name, resolution, granularity))
            advance()
    return found


@contextmanager
def _progress(names: Sequence[str], out: Output) -> Iterator[Any]:
    """A bar where there are several models to wait for; calls advance it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    hidden = len(names) == 1 or not out.console.is_terminal
    with Progress(
        *columns, TimeElapsedColumn(), console=out.console, disable=hidden, transient=True
    ) as bar:
        task = bar.add_task("tracing", total=len(names))
        yield lambda: bar.advance(task)


def _one(found: Bottlenecks, batch: int) -> Table:
    table = found.table
    made = Table(
        title=f"{table.model} at {table.resolution}x{table.resolution}, by {table.granularity}",
        title_justify="left",
    )
    made.add_column("#", justify="right")
    made.add_column("behind", overflow="fold")
    made.add_column("shape", overflow="fold")
    for title in ("elements", f"float32 bytes x{batch}", "ratio", "MACs in head"):
        made.add_column(title, justify="right")
    made.add_column("bottleneck")
    for point, share in zip(found.points, found.head_shares, strict=True):
        made.add_row(
            str(point.index),
            point.name,
            " + ".join("x".join(map(str, shape)) for shape in point.shapes),
            f"{point.elements:,}",
            f"{point.elements * batch * 4:,}",
            f"{point.ratio:.4f}",
            f"{share:.1%}",
            "compressive" if point.compressive else "natural" if point.natural else "",
            style="bold" if point.compressive else "",
        )
    return made


def _counted(found: Bottlenecks) -> str:
    counts = found.to_json()["counts"]
    return (
        f"{counts['split_points']} split points, {counts['natural']} natural bottlenecks, "
        f"{counts['compressive']} compressive; input {found.to_json()['input_elements']:,} "
        f"elements; {found.macs / 1e9:.2f} GMACs; traced by {found.table.tracer}"
    )


def _comparison(found: list[Bottlenecks], batch: int) -> Table:
    made = Table(title="Bottlenecks (compressive ones as index:ratio)", title_justify="left")
    made.add_column("model", overflow="fold")
    titles = ("input", "points", "natural", "compressive", f"least float32 bytes x{batch}")
    for title in titles:
        made.add_column(title, justify="right")
    made.add_column("compressive bottlenecks", overflow="fold")
    for one in found:
        counts = one.to_json()["counts"]
        least = min((point.elements for point in one.points), default=0)
        made.add_row(
            one.table.model,
            str(one.table.resolution),
            *(str(counts[kind]) for kind in ("split_points", "natural", "compressive")),
            f"{least * batch * 4:,}",
            " ".join(f"{p.index}:{p.ratio:.4f}" for p in one.points if p.compressive),
        )
    return made


def add_verbs(verbs: Any) -> None:
    """Add ``models`` and ``bottlenecks``."""
    verb = add_verb(verbs, "models", models)
    verb.add_argument("pattern", nargs="?", default="", help="part of a name, or a glob")
    verb = add_verb(verbs, "bottlenecks", bottlenecks)
    verb.add_argument("models", nargs="*", metavar="MODEL")
    verb.add_argument("--list", type=Path, metavar="FILE", help="a YAML file that names the models")
    verb.add_argument("--resolution", type=_resolution, help="default: each model's own")
    verb.add_argument("--granularity", choices=("block", "layer"), help="default: block")
    verb.add_argument("--batch", type=_positive, default=1, help="images in one query")
    verb.add_argument(
        "--plot", type=file_to_write(*PLOTS), metavar="FILE", help="ratio along the depth"
    )
    page = file_to_write(makes_folder=True)
    verb.add_argument("--page", type=page, metavar="FILE", help="all of it on one HTML page")
    verb.set_defaults(parser=verb)


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return value


def _resolution(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 32 <= value <= 2048:
        raise argparse.ArgumentTypeError(f"expected 32 to 2048 pixels, got {text!r}")
    return value
