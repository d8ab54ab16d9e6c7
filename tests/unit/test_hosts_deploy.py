from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from testbed.config import Host
from testbed.hosts.connection import REMOTE
from testbed.hosts.deploy import build_archive
from testbed.hosts.launch import command_line


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()


def test_archive_is_the_same_bytes_each_time_and_says_nothing_of_its_maker() -> None:
    first = build_archive(False)
    build_archive.cache_clear()
    assert build_archive(False) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.mtime, m.uid, m.gid, m.uname) for m in members} == {(0, 0, 0, "")}


def test_archive_holds_the_host_side_only() -> None:
    inside = names(build_archive(False))
    assert {"testbed/__init__.py", "testbed/control.py", "testbed/worker/__init__.py"} <= set(
        inside
    )
    rooms = {name.split("/")[1] for name in inside}
    assert not rooms & {"cli.py", "progress.py", "config", "hosts", "lab", "orchestrator"}
    assert not any(name.startswith("pyroute2") for name in inside)


def test_link_role_gets_pyroute2_with_its_licences() -> None:
    inside = names(build_archive(True))
    assert "pyroute2/__init__.py" in inside
    assert any("dist-info" in name and "LICENSE" in name for name in inside)


def test_unpacked_archive_runs_on_python_alone(tmp_path) -> None:
    with tarfile.open(fileobj=io.BytesIO(build_archive(True))) as tar:
        tar.extractall(tmp_path, filter="data")
    # -S: no site-packages, so whatever is not in the archive or the standard library is missing.
    code = "import testbed.control, testbed.framing, testbed.records, testbed.policy, pyroute2"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def store(cache: Path, *args: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, str(REMOTE / "store.py"), *args],
        input=data,
        capture_output=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
    )


def test_store_keeps_a_file_and_knows_it(tmp_path) -> None:
    data = os.urandom(3_000_000)
    done = store(tmp_path, "file", "models/a.archive", hashlib.sha256(data).hexdigest(), data=data)
    path = Path(done.stdout.decode().strip())
    assert path == tmp_path / "testbed" / "models" / "a.archive"
    assert path.read_bytes() == data
    had = json.loads(store(tmp_path, "have", "models/a.archive", "models/b.pt2").stdout)
    assert had == {"models/a.archive": str(path)}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_store_refuses_what_arrives_damaged_and_leaves_nothing(tmp_path, kind) -> None:
    data = build_archive(False)
    done = store(tmp_path, kind, "code/x", hashlib.sha256(data).hexdigest(), data=data[:-1])
    assert done.returncode == 1
    assert b"code/x arrived damaged: expected sha256" in done.stderr
    assert list((tmp_path / "testbed" / "code").iterdir()) == []


def test_store_unpacks_a_folder_and_accepts_that_another_was_first(tmp_path) -> None:
    data = build_archive(False)
    sha256 = hashlib.sha256(data).hexdigest()
    for _ in range(2):
        done = store(tmp_path, "folder", f"code/{sha256}", sha256, data=data)
        assert done.returncode == 0, done.stderr
        assert (Path(done.stdout.decode().strip()) / "testbed" / "control.py").is_file()
    assert [p.name for p in (tmp_path / "testbed" / "code").iterdir()] == [sha256]


def test_worker_command_has_steady_malloc_threads_and_the_inventory_last() -> None:
    host = Host(
        roles=("device",),
        python="/opt/py 3/python",
        threads=2,
        environment={"OMP_NUM_THREADS": "4", "NOTE": "a b; rm -rf $HOME", "PYTHONPATH": "/my"},
    )
    argv = command_line("device", host, "/cache/code/x", sudo=False)
    assert argv[:3] == ["env", "-C", "/cache/code/x"]
    assert argv[-4:] == ["/opt/py 3/python", "-m", "testbed.worker", "device"]
    assigned = dict(word.split("=", 1) for word in argv[3:-4])
    assert assigned["OMP_NUM_THREADS"] == "4"
    assert assigned["MKL_NUM_THREADS"] == "2"
    assert assigned["MALLOC_MMAP_THRESHOLD_"] == "1073741824"
    assert assigned["NOTE"] == "a b; rm -rf $HOME"
    assert assigned["PYTHONPATH"] == "/cache/code/x:/my"


def test_link_command_asks_sudo_never_to_prompt() -> None:
    argv = command_line("link", Host(roles=("link",)), "/c", sudo=True)
    assert argv == [
        "sudo", "-n", "env", "-C", "/c", "PYTHONPATH=/c", "PYTHONDONTWRITEBYTECODE=1",
        "python3", "-m", "testbed.link",
    ]  # fmt: skip
