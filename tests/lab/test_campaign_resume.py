"""A campaign outlives its terminal, and goes on after whatever killed it.

Its hosts have no router: each sender's own data interface is shaped. Each builds the model by its
own library.
"""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.audit import audit
from testbed import lab
from testbed.cli import main
from testbed.link.state import differences
from testbed.link.tree import ROOT_HANDLE, format_handle

pytestmark = pytest.mark.lab
ROOT = Path(__file__).parents[2]

EXPERIMENT = """
schema_version: 1
name: tiny
model: {name: squeezenet1_1, resolution: 64, carry: library}
candidates: ["5"]
encoding: {features: float32}
links: {fast: {uplink: {rate: 50mbit}, downlink: {rate: 50mbit}}}
policies: [offload, "static:5"]
run: {duration: 1s, warmup_queries: 3, repeat_disturbed: 0}
profile: {queries: 4, rate: 50mbit}
"""
NO_ROUTER = """
schema_version: 1
lab: local
shaping: egress
hosts:
  device: {roles: [device], cpus: 0.8, environment: {XDG_CACHE_HOME: FOLDER}}
  server: {roles: [server, load], environment: {XDG_CACHE_HOME: FOLDER}}
"""

MEASURED = '"kind":"measured"'


@pytest.fixture(scope="module", autouse=True)
def own_labs(tmp_path_factory) -> Iterator[None]:
    """Labs of these tests are told apart from any other on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTBED_RUN_DIR", str(tmp_path_factory.mktemp("labs")))
        yield
        lab.down_all()


def wait_for(terminal: int | None, ready: Callable[[], bool]) -> None:
    """Until ready; what a terminal shows is read meanwhile, or its program would stop."""
    deadline = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < deadline, "the campaign did not get so far"
        if terminal is None:
            time.sleep(0.05)
        elif select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 65536)


def interrupted(results: Path) -> list[Path]:
    """Runs with measured queries and no manifest, once a run before them has ended."""
    begun = [
        path for path in results.glob("*/*/fast.*/queries.jsonl") if MEASURED in path.read_text()
    ]
    folders = [path.parent for path in begun if not (path.parent / "manifest.json").exists()]
    return folders if len(begun) > len(folders) else []


def test_it_outlives_its_terminal_and_a_kill(tmp_path, capsys) -> None:
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)
    (tmp_path / "lab.yaml").write_text(NO_ROUTER.replace("FOLDER", str(tmp_path / "hosts")))
    results = tmp_path / "results"
    files = [str(tmp_path / "tiny.yaml"), "-i", str(tmp_path / "lab.yaml")]
    argv = [sys.executable, "-m", "testbed", "run", *files, "--results", str(results)]
    # A process of its own with a terminal of its own, as a person has over SSH.
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, argv)
    wait_for(terminal, lambda: bool(list(results.glob("*/*/profile/queries.jsonl"))))
    os.close(terminal)  # the kernel sends SIGHUP
    wait_for(None, lambda: bool(interrupted(results)))
    assert len(lab.status()) == 1
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert main(["lab", "down", "--all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"]
    assert lab.status() == []
    (killed,) = interrupted(results)
    campaign = killed.parent
    done = {path.parent.name: path.read_bytes() for path in campaign.glob("fast.*/manifest.json")}
    assert done
    assert audit(campaign).faults

    assert main(["run", "--resume", str(campaign), "--json"]) in (0, 1)
    document = json.loads(capsys.readouterr().out)
    assert set(document["runs"].values()) == {"complete"}
    assert len(document["runs"]) == 2
    for run, manifest in done.items():
        assert (campaign / run / "manifest.json").read_bytes() == manifest
    assert audit(campaign).faults == []
    assert json.loads((campaign / "campaign.json").read_text())["state"] == "complete"
    assert lab.status() == []
    shaped_at_both_senders(campaign)
    built_on_each_host(campaign)


def built_on_each_host(campaign: Path) -> None:
    """In both sessions the same archive as here; the two hosts have one cache."""
    archive = json.loads((campaign / "campaign.json").read_text())["archive_sha256"]
    found = list(campaign.glob("fast.*/environment.[ds]e*.json"))
    assert len(found) == 4
    for path in found:
        assert json.loads(path.read_text())["built_model"]["archive_sha256"] == archive


def shaped_at_both_senders(campaign: Path) -> None:
    """Verified before the runs, shaped in them, and in the end as before."""

    def read(path: Path) -> Any:
        return json.loads(path.read_text())

    assert read(campaign / "link_verification.json")["faults"] == []
    before, after = (read(campaign / f"qdisc.{name}.json") for name in ("before", "after"))
    for role in ("link-device", "link-server"):
        ((interface, state),) = before[role].items()
        assert differences(state, after[role][interface]) == ()
        for run in campaign.glob("fast.*"):
            shaped = read(run / "qdisc.shaped.json")[role][interface]
            assert shaped["qdiscs"][0]["handle"] == format_handle(ROOT_HANDLE)
    environment = read(next(campaign.glob("fast.*/environment.device.json")))
    assert environment["shaping"] == "egress"
