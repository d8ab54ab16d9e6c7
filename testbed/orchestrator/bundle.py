"""A campaign in one archive, fit for an artefact evaluation: records, report, lock, source."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from testbed import __version__
from testbed.errors import TestbedError, UserError
from testbed.orchestrator.inputs import source_revision
from testbed.records import LOCK, SCHEMA_VERSION, read_json, sha256_file

_ROOT = Path(__file__).parents[2]
# What of the project goes with the records, where it runs from a checkout.
_PROJECT_FILES = ("requirements.lock", "pyproject.toml", "LICENSE", "CITATION.cff", "README.md")
_LIST = "bundle.json"
_CAMPAIGN = "campaign"

_COMMANDS = """\
# How to check and repeat this

Made by testbed {version}, source revision {revision}{dirty}.

1. Get the source at that revision, and the packages of `project/requirements.lock`: `make setup`.
2. Check that nothing was changed: `testbed verify BUNDLE.tar.gz`.
3. Make the report again from the records, the same to the byte with the same packages:
   `tar xf BUNDLE.tar.gz && testbed report campaign`.
4. Run the experiment again and hold its figures against these:
   `testbed reproduce campaign -i inventory/local.yaml`.

Figures fall in each other's 95 % intervals on like hosts; on others the order of the policies is
what to expect, and `testbed compare` says by how much each differs.
"""


def write_bundle(campaign: Path, out: Path) -> Path:
    """Write the archive; the same bytes for the same campaign and project.

    Raises UserError where the folder is no campaign, or the archive is there already or in it.
    """
    state = read_json(campaign / "campaign.json", "state")["state"]
    if state == "running":
        raise UserError(f"{campaign}: is still running, or was killed; go on with run --resume")
    if out.resolve().is_relative_to(campaign.resolve()):
        raise UserError(
            f"{out}: lies in the campaign, which it would be a part of; choose another --out"
        )
    if out.exists():
        raise UserError(f"{out}: is there already; choose another --out")
    source = source_revision()
    commands = _COMMANDS.format(
        version=__version__,
        revision=source["revision"] or "unknown",
        dirty=" with changes" if source["dirty"] else "",
    )
    files = {f"{_CAMPAIGN}/{p.relative_to(campaign)}": p for p in _files(campaign)}
    files |= {f"project/{n}": _ROOT / n for n in _PROJECT_FILES if (_ROOT / n).is_file()}
    document = {
        "schema_version": SCHEMA_VERSION,
        "testbed": __version__,
        "source": source,
        "checksums": {name: sha256_file(path) for name, path in sorted(files.items())},
    }
    try:
        with (
            out.open("xb") as raw,
            gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            _add(archive, _LIST, (json.dumps(document, indent=1) + "\n").encode())
            _add(archive, "REPRODUCE.md", commands.encode())
            for name, path in sorted(files.items()):
                _add(archive, name, path.read_bytes())
    except OSError as error:
        out.unlink(missing_ok=True)
        raise TestbedError(f"{out}: cannot be written: {error.strerror}") from error
    return out


def _files(campaign: Path) -> Iterator[Path]:
    for path in sorted(campaign.rglob("*")):
        if path.is_file() and path.name != LOCK:
            yield path


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))


@contextmanager
def unpacked(bundle: Path) -> Iterator[tuple[Path, list[str]]]:
    """The campaign of a bundle in a temporary folder, and what is wrong with the bundle.

    Raises UserError for a file that is no bundle.
    """
    with TemporaryDirectory(prefix="testbed-bundle-") as name:
        folder = Path(name)
        try:
            with tarfile.open(bundle, "r:gz") as archive:
                archive.extractall(folder, filter="data")
        except (OSError, EOFError, tarfile.TarError) as error:
            raise UserError(f"{bundle}: expected a bundle (.tar.gz), got: {error}") from error
        checksums: dict[str, Any] = read_json(folder / _LIST, "checksums")["checksums"]
        there = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
        faults = [f"{n}: missing from the bundle" for n in checksums if n not in there]
        faults += [
            f"{name}: changed since the bundle was made"
            for name, path in there.items()
            if name in checksums and sha256_file(path) != checksums[name]
        ]
        extra = sorted(there.keys() - checksums.keys() - {_LIST, "REPRODUCE.md"})
        yield folder / _CAMPAIGN, faults + [f"{name}: not of the bundle" for name in extra]
