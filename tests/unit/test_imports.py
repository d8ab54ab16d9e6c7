"""The direction of imports, read from the source: each room needs only what it may."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEAVY = {
    "numpy", "pandas", "matplotlib", "scipy", "jinja2", "paramiko", "pyroute2", "torch",
    "torchvision", "timm", "yaml", "pydantic", "rich", "pyarrow", "PIL", "zstandard", "lz4",
}  # fmt: skip
ROOMS = {"config", "traces", "model", "policy", "link", "worker", "hosts", "lab", "orchestrator"}

# Room → third-party packages it may import; every other heavy package is refused.
ALLOWED = {
    "testbed/config": {"yaml", "pydantic"},
    "testbed/traces": set(),
    "testbed/policy": set(),
    "testbed/link": {"pyroute2"},
    "testbed/worker": {"torch"},
    "testbed/model": {"torch", "torchvision", "timm", "PIL"},
    "testbed/hosts": {"paramiko"},
    "testbed/lab": {"pyroute2"},
    "testbed/orchestrator": set(),
    "testbed/cli": {"rich"},
    "testbed/progress.py": {"rich"},
    "analysis": {"numpy", "pandas", "matplotlib", "scipy", "jinja2", "pyarrow"},
}
# Room → testbed rooms it must not know.
FORBIDDEN_ROOMS = {
    "testbed/config": ROOMS - {"config"},
    "testbed/traces": ROOMS - {"traces"},
    "testbed/policy": ROOMS - {"policy"},
    "testbed/link": ROOMS - {"link"},
    "testbed/worker": {"hosts", "lab", "orchestrator", "link", "config"},
    "testbed/model": ROOMS - {"model", "config"},
    "testbed/hosts": {"lab", "orchestrator", "worker"},
    "testbed/lab": {"orchestrator", "worker", "hosts", "model", "policy"},
    "analysis": {"hosts", "lab", "orchestrator", "worker", "link"},
}


def imports(path: Path) -> set[str]:
    """Every dotted name that a file imports, at whatever depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(room: str) -> list[Path]:
    place = ROOT / room
    return [place] if place.is_file() else sorted(place.rglob("*.py"))


@pytest.mark.parametrize("room", ALLOWED)
def test_room_imports_only_its_packages(room) -> None:
    assert files(room)
    for path in files(room):
        heavy = {name.partition(".")[0] for name in imports(path)} & HEAVY
        assert heavy <= ALLOWED[room], f"{path}: {heavy - ALLOWED[room]}"


@pytest.mark.parametrize("room", FORBIDDEN_ROOMS)
def test_room_knows_no_room_above_it(room) -> None:
    for path in files(room):
        # The split table is vocabulary, standard library only: every room may speak it.
        names = (n for n in imports(path) if not n.startswith("testbed.model.table"))
        known = {n.split(".")[1] for n in names if n.startswith("testbed.")}
        assert not known & FORBIDDEN_ROOMS[room], f"{path}: {known & FORBIDDEN_ROOMS[room]}"


def test_testbed_reaches_analysis_only_from_the_command_line() -> None:
    for path in sorted((ROOT / "testbed").rglob("*.py")):
        if path.parent.name != "cli":
            assert not any(n.partition(".")[0] == "analysis" for n in imports(path)), path
