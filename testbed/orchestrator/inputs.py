"""What a campaign was made from, kept in its folder, so that it can be run again from there."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed import __version__
from testbed.config import Experiment
from testbed.errors import UserError
from testbed.model.table import SplitTable
from testbed.orchestrator.plan import DIRECTIONS
from testbed.records import read_json, write_json
from testbed.traces.canonical import save_trace
from testbed.traces.trace import BandwidthTrace

if TYPE_CHECKING:
    from testbed.model.pictures import Pictures

RESOLVED = "experiment.resolved.json"
PICTURES = "inputs.pack"  # the images that the queries were made of, where they were real
_GIT_TIMEOUT_S = 10.0


def keep(folder: Path, experiment: Experiment, traces: Mapping[str, BandwidthTrace]) -> None:
    """Write the resolved experiment, and each of its traces under ``traces/``."""
    own = folder / "traces"
    kept = {}
    for number, (path, trace) in enumerate(traces.items()):
        if Path(path).parent == own.resolve():  # a campaign that goes on
            kept[path] = f"traces/{Path(path).name}"
            continue
        own.mkdir(exist_ok=True)
        kept[path] = f"traces/{number}.{Path(path).stem}.csv"
        save_trace(trace, folder / kept[path])
    document = {"experiment": experiment.model_dump(mode="json"), "traces": kept}
    write_json(folder / RESOLVED, document)


def kept(folder: Path) -> Experiment:
    """The experiment that a campaign ran, its traces and images from the campaign's own folder.

    Raises UserError for a folder that keeps none, and for one of a newer release.
    """
    document = read_json(folder / RESOLVED, "experiment")
    try:
        experiment = Experiment.model_validate(document["experiment"])
    except ValueError as error:  # pydantic's error is one
        raise UserError(
            f"{folder / RESOLVED}: not this release's experiment: {' '.join(str(error).split())}"
        ) from error
    traces = document.get("traces", {})
    links = {}
    for name, link in experiment.links.items():
        sides = {side: getattr(link, side) for side in DIRECTIONS}
        for side, spec in sides.items():
            if spec.trace is not None and str(spec.trace) in traces:
                own = (folder / traces[str(spec.trace)]).resolve()
                sides[side] = spec.model_copy(update={"trace": own})
        links[name] = link.model_copy(update=sides)
    changes: dict[str, Any] = {"links": links}
    if (pictures := folder / PICTURES).is_file():
        changes["inputs"] = f"pack:{pictures.resolve()}"
    return experiment.model_copy(update=changes)


def real_pictures(inputs: str, table: SplitTable) -> Pictures | None:
    """The images that ``inputs`` names, None for synthetic ones; UserError for a misfit."""
    if inputs == "synthetic":
        return None
    # torch takes seconds to import; an experiment without real inputs does without it.
    from testbed.model.pictures import gather

    return gather(inputs, table)


def keep_pictures(folder: Path, pictures: Pictures | None) -> None:
    """Write them where the roles are given them from; a campaign that goes on has them."""
    path = folder / PICTURES
    if pictures is None or path.is_file():
        return
    temporary = path.with_name(f".{path.name}")
    pictures.save(temporary)
    temporary.replace(path)


def orchestrator_environment() -> dict[str, Any]:
    """The orchestrator itself: Python, packages, and the source's revision."""
    installed = {d.metadata["Name"]: d.version for d in distributions()}
    return {
        "hostname": platform.node(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "testbed": __version__,
        "source": source_revision(),
        "packages": dict(sorted(installed.items(), key=lambda pair: pair[0].lower())),
    }


def keep_environment(folder: Path, begun: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write what the orchestrator is; at the end, what changed since ``begun`` too."""
    now = orchestrator_environment()
    told = now
    if begun is not None:
        told = {**begun, "after": {k: v for k, v in now.items() if v != begun[k]}}
    write_json(folder / "environment.orchestrator.json", told)
    return now


def source_revision() -> dict[str, Any]:
    """The commit of the testbed's source and whether it was changed; None outside a checkout."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str | None:
        argv = ["git", "-C", str(root), *arguments]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top) != root:
        return {"revision": None, "dirty": None}
    return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
