"""Archive and split table of a model, exported once and kept, by whoever builds it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from testbed.errors import UserError
from testbed.model.names import PACKAGES, parse_name
from testbed.model.table import SplitTable
from testbed.records import SCHEMA_VERSION, read_json, sha256_file, write_json

_LIBRARY = "library"
_ARCHIVE, _TABLE, _WEIGHTS = "model.archive", "table.json", "weights.pt"


class Asked(Protocol):
    """Which model is asked for: the experiment's ``model``, or what a host is told of it."""

    @property
    def name(self) -> str:
        """As :func:`testbed.model.zoo.build` takes it."""

    @property
    def resolution(self) -> int | None:
        """Height and width of the images in pixels; None for the model's own."""

    @property
    def weights(self) -> str:
        """As :func:`testbed.model.zoo.build` takes them."""

    @property
    def seed(self) -> int:
        """Of random weights."""

    @property
    def granularity(self) -> str:
        """Where it is cut: ``block`` or ``layer``."""

    @property
    def carry(self) -> str:
        """What travels: the ``archive``, or the weights alone, for each host's ``library``."""


@dataclass(frozen=True)
class Prepared:
    """A model ready to be run: the archive file, its SHA-256 and its split table.

    ``weights`` is the state dict that a host's own library fills a network with, and its SHA-256;
    only where the library is what travels.
    """

    archive: Path
    archive_sha256: str
    table: SplitTable
    weights: tuple[Path, str] | None = None


def default_cache() -> Path:
    """Where archives are kept: ``$XDG_CACHE_HOME/testbed/exports``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "testbed/exports"


def prepare(asked: Asked, cache: Path | None = None) -> Prepared:
    """The model's archive and table, from the cache or exported now (5 to 15 s).

    Raises UserError for a model that is unknown, no classifier, or refused by both tracers.
    """
    root = cache if cache is not None else default_cache()
    folder = root / _key(asked)
    # Nobody can tell whether a callable's code still is the same: it is exported again.
    if asked.name.startswith("python:") or not folder.is_dir():
        folder = _make(asked, folder)
    try:
        return _read(folder)
    except UserError:  # damaged
        shutil.rmtree(folder)
        return prepare(asked, cache)


def built_by(asked: Asked) -> dict[str, str]:
    """Versions of the packages that build the model here; UserError where one is missing."""
    source, _ = parse_name(asked.name)
    try:
        return {name: version(name) for name in ("torch", *PACKAGES[source])}
    except PackageNotFoundError as error:
        raise UserError(
            f"model {asked.name}: {error.name} is not installed here; run `make setup` on the "
            "orchestrator, or install the release that fits this host's torch"
        ) from error


def _read(folder: Path) -> Prepared:
    """What a folder of the cache holds; UserError where it is not whole."""
    document = read_json(folder / _TABLE, "archive_sha256", "weights_sha256", "table")
    files = {_ARCHIVE: document["archive_sha256"], _WEIGHTS: document["weights_sha256"]}
    for name, sha256 in files.items():
        path = folder / name
        if sha256 is not None and not (path.is_file() and sha256_file(path) == sha256):
            raise UserError(f"{path}: is not what was written; export it again")
    weights = document["weights_sha256"]
    return Prepared(
        folder / _ARCHIVE,
        document["archive_sha256"],
        SplitTable.from_json(document["table"]),
        (folder / _WEIGHTS, weights) if weights is not None else None,
    )


def _key(asked: Asked) -> str:
    """Hash of everything that the archive and the table depend on, our own code included."""
    code = {path.name: sha256_file(path) for path in sorted(Path(__file__).parent.glob("*.py"))}
    files = [Path(asked.weights), Path(asked.name.removeprefix("export:"))]
    content = [sha256_file(path) if path.is_file() else None for path in files]
    fields = [asked.name, asked.resolution, asked.weights, asked.seed, asked.granularity]
    document = [*fields, asked.carry, content, built_by(asked), code, SCHEMA_VERSION]
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()[:32]


def _make(asked: Asked, folder: Path) -> Path:
    """Export into a folder of the cache; a callable's has what came of it in its name, too."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        digest = _export(asked, made)
        if asked.name.startswith("python:"):
            folder = folder.with_name(f"{folder.name}-{digest[:16]}")
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise  # else another process has exported the same in the meantime
    return folder


def _export(asked: Asked, folder: Path) -> str:
    """Write the archive, the table and, if asked, the weights; the archive's SHA-256."""
    # torch and torchvision take seconds to import; a cached model does without them.
    import torch

    from testbed.model.archive import save_archive
    from testbed.model.export import export_program
    from testbed.model.splits import split_table
    from testbed.model.zoo import build, native_resolution

    resolution = asked.resolution or native_resolution(asked.name)
    network = build(asked.name, asked.weights, asked.seed, resolution)
    weights = None
    if asked.carry == _LIBRARY:
        torch.save(network.state_dict(), folder / _WEIGHTS)
        weights = sha256_file(folder / _WEIGHTS)
    program, tracer = export_program(network, resolution)
    table = split_table(network, program, asked.name, resolution, asked.granularity, tracer)
    digest = save_archive(program, folder / _ARCHIVE)
    document = {"archive_sha256": digest, "weights_sha256": weights, "table": table.to_json()}
    write_json(folder / _TABLE, document)
    return digest
