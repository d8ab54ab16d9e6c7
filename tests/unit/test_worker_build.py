"""The build role: a host's own archive of a model, from the orchestrator's weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from testbed.config.experiment import ModelSpec
from testbed.control import Control
from testbed.errors import UserError
from testbed.model.cache import Prepared, built_by, prepare
from testbed.model.table import SplitTable
from testbed.orchestrator.host_models import difference
from testbed.worker.build import BuildRole
from tests.unit.role_process import Role

SPEC = ModelSpec(name="squeezenet1_1", resolution=64, carry="library")
MODEL = {"name": "squeezenet1_1", "resolution": 64, "granularity": "block"}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(SPEC, tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="module")
def role(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Role]:
    role = Role("build", {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("host"))})
    role.wait("hello")
    yield role
    assert role.close() == 0


def build(role: Role, weights: Path, **model: Any) -> dict[str, Any]:
    return role.ask("build", "built", model=MODEL | model, weights=str(weights))


def test_a_host_makes_the_same_archive_of_the_weights_that_travelled(
    role: Role, ours: Prepared
) -> None:
    assert ours.weights is not None
    built = build(role, ours.weights[0])
    assert built["archive_sha256"] == ours.archive_sha256
    assert SplitTable.from_json(built["table"]) == ours.table
    assert built["built_by"] == built_by(SPEC)
    assert Path(built["archive"]) != ours.archive
    made_ns = Path(built["archive"]).stat().st_mtime_ns
    assert build(role, ours.weights[0]) == built
    assert Path(built["archive"]).stat().st_mtime_ns == made_ns  # found again, not made again


@pytest.mark.parametrize(
    ("weights", "model", "told"),
    [
        ("other.pt", {}, "is no state dict of this model (.* missing: .*1 unexpected: another"),
        ("none.pt", {}, "none.pt' is neither 'random', nor a file"),
        ("other.pt", {"name": "squeezenet9"}, "unknown model 'squeezenet9'"),
    ],
)
def test_what_a_host_cannot_build_is_told_in_one_line(
    role: Role, tmp_path: Path, weights: str, model: dict[str, str], told: str
) -> None:
    torch.save({"another": torch.zeros(3)}, tmp_path / "other.pt")
    role.send("build", model=MODEL | model, weights=str(tmp_path / weights))
    error = role.wait("error")
    assert error["user"]
    assert re.search(told.replace("(", "\\("), error["message"])
    assert "\n" not in error["message"]


ENDLESS = """
import os
import threading

def build():
    open(os.environ["BEGUN"], "w").close()
    threading.Event().wait()
"""


def test_a_build_ends_with_its_orchestrator_and_leaves_nothing(
    ours: Prepared, tmp_path: Path
) -> None:
    assert ours.weights is not None
    (tmp_path / "endless.py").write_text(ENDLESS)
    os.mkfifo(begun := tmp_path / "begun")
    folders = {"PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    role = Role("build", folders | {"BEGUN": str(begun)})
    try:
        role.wait("hello")
        role.send(
            "build", model=MODEL | {"name": "python:endless:build"}, weights=str(ours.weights[0])
        )
        begun.read_text()  # waits until it has begun
        assert list((tmp_path / "cache/testbed/exports").iterdir())
        assert role.close() == 1
        assert not list((tmp_path / "cache/testbed/exports").iterdir())
    finally:
        role.process.kill()
        role.reader.join()


def test_a_torch_that_takes_the_batch_for_a_constant_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "__version__", "2.2.2+cu121")
    with pytest.raises(UserError, match=r"needs torch ≥ 2\.4, got 2\.2\.2\+cu121; install a newer"):
        BuildRole(cast(Control, None)).handle({"type": "build"})


def test_tables_that_cut_elsewhere_are_told_apart(ours: Prepared) -> None:
    points = ours.table.points
    renamed = replace(points[3], nodes=("add_1",))
    theirs = replace(ours.table, points=(*points[:3], renamed, *points[4:]), tracer="torch.fx")
    assert difference(ours.table, theirs) == ""
    flat = replace(points[3], shapes=((7, 3),))
    theirs = replace(ours.table, points=(*points[:3], flat, *points[4:]))
    assert difference(ours.table, theirs).endswith(f"got {points[3].name} of 7×3")
    fewer = replace(ours.table, points=points[:-2] + points[-1:])
    assert difference(ours.table, fewer).endswith("got output of 1000")
    assert f"got {points[-2].name}" in difference(fewer, ours.table)
