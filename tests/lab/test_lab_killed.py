"""``kill -9`` at any moment of coming up or going down: ``down_all`` then leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from testbed.lab import down_all

pytestmark = pytest.mark.lab
PROJECT = Path(__file__).parents[2]

# Every audit event of the interpreter (a file, a socket, a process, ...) is a moment at which the
# process may kill itself; a whole first run counts them.
CHILD = """
import os, signal, sys
from pathlib import Path
from testbed.config import load_inventory
from testbed.lab import Lab
inventory = load_inventory(Path("inventory/local.yaml"))
fatal, seen, armed = int(sys.argv[1]), 0, False
def count(event, arguments):
    global seen
    if armed and not event.startswith(("object", "sys._", "cpython")):
        seen += 1
        if seen == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
armed = True
lab = Lab.up(inventory, lab_id="killme")
lab.down()
armed = False
print(seen)
"""


def live_and_die(run_dir: Path, fatal: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(fatal)],
        cwd=PROJECT,
        env={**os.environ, "TESTBED_RUN_DIR": str(run_dir), "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> int:
    whole = live_and_die(tmp_path_factory.mktemp("whole"), 0)
    assert whole.returncode == 0
    return int(whole.stdout)


def left_behind(run_dir: Path) -> list[str]:
    mark = "tb-killme-"
    with IPRoute() as ip:
        found = [str(link.get("ifname")) for link in ip.get_links()]
    found += [path.name for path in Path("/run/netns").iterdir()]
    found += [path.name for path in Path("/sys/fs/cgroup").glob("**/tb-*")]
    listeners = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if f"{run_dir}/".encode() in path.read_bytes()
    ]
    return [name for name in found if mark in name] + listeners + os.listdir(run_dir)


@pytest.mark.parametrize("part", [0.02, 0.15, 0.3, 0.45, 0.6, 0.75, 0.95])
def test_nothing_is_left_after_kill_9(
    part: float, moments: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = live_and_die(tmp_path, max(1, int(part * moments)))
    assert died.returncode == -signal.SIGKILL
    monkeypatch.setenv("TESTBED_RUN_DIR", str(tmp_path))
    down_all()
    assert left_behind(tmp_path) == []
    assert down_all() == []
