"""Archive and split table of a model, exported once and kept. Orchestrator only."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from testbed.config.experiment import ModelSpec
from testbed.errors import UserError
from testbed.model.table import SplitTable
from testbed.records import SCHEMA_VERSION, read_json, sha256_file, write_json

_ARCHIVE, _TABLE = "model.archive", "table.json"


@dataclass(frozen=True)
class Prepared:
    """A model ready to be deployed: the archive file, its SHA-256 and its split table."""

    archive: Path
    archive_sha256: str
    table: SplitTable


def default_cache() -> Path:
    """Where archives are kept: ``$XDG_CACHE_HOME/testbed/exports``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "testbed/exports"


def prepare(spec: ModelSpec, cache: Path | None = None) -> Prepared:
    """The spec's archive and table, from the cache or exported now (5 to 15 s).

    Raises UserError for a model that is unknown, no classifier, or refused by both tracers.
    """
    root = cache if cache is not None else default_cache()
    folder = root / _key(spec)
    if spec.name.startswith("python:"):  # nobody can tell whether that code still is the same
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".export-") as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            _export(spec, made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise  # else another process has exported the same in the meantime
    archive = folder / _ARCHIVE
    try:
        document = read_json(folder / _TABLE, "archive_sha256", "table")
        whole = archive.is_file() and sha256_file(archive) == document["archive_sha256"]
    except UserError:
        whole = False
    if not whole:
        shutil.rmtree(folder)
        return prepare(spec, cache)
    return Prepared(archive, document["archive_sha256"], SplitTable.from_json(document["table"]))


def _key(spec: ModelSpec) -> str:
    """Hash of everything that the archive and the table depend on, our own code included."""
    try:
        versions = [version("torch"), version("torchvision")]
        if spec.name.startswith("timm:"):
            versions.append(version("timm"))
    except PackageNotFoundError as error:
        raise UserError(f"{error.name} is not installed here; run `make setup`") from error
    code = {path.name: sha256_file(path) for path in sorted(Path(__file__).parent.glob("*.py"))}
    files = [Path(spec.weights), Path(spec.name.removeprefix("export:"))]
    content = [sha256_file(path) if path.is_file() else None for path in files]
    document = [spec.model_dump(), content, versions, code, SCHEMA_VERSION]
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()[:32]


def _export(spec: ModelSpec, folder: Path) -> None:
    # torch and torchvision take seconds to import; a cached model does without them.
    from testbed.model.archive import save_archive
    from testbed.model.export import export_program
    from testbed.model.splits import split_table
    from testbed.model.zoo import build, native_resolution

    resolution = spec.resolution or native_resolution(spec.name)
    network = build(spec.name, spec.weights, spec.seed, resolution)
    program, tracer = export_program(network, resolution)
    table = split_table(network, program, spec.name, resolution, spec.granularity, tracer)
    digest = save_archive(program, folder / _ARCHIVE)
    write_json(folder / _TABLE, {"archive_sha256": digest, "table": table.to_json()})
