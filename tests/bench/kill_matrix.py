"""``kill -9`` of orchestrator, role and sshd at many moments: is the link as before within 5 s?

``python -m tests.bench.kill_matrix [MOMENTS]`` makes a virtual lab, replays a trace over its link,
kills, and waits until qdiscs, offloads and sysctls of the router are as before, no journal is left
and no process of ours lives. Prints a table; exit status 1 if one of them took longer than 5 s.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from testbed.config import load_inventory
from testbed.lab import Lab
from testbed.lab.journal import NETNS_DIR
from testbed.lab.layout import TO_DEVICE, TO_SERVER, namespace_of
from testbed.lab.network import in_namespace
from testbed.lab.processes import inside, namespace_id
from testbed.link import journal
from testbed.link.host import read_sysctls
from testbed.link.state import differences, read_state

ROOT = Path(__file__).parents[2]
VICTIMS = ("orchestrator", "role", "sshd")
BOUND_S, SPACING_S, PACE_S, PATIENCE_S = 5.0, 0.4, 0.05, 30.0
TRACE = ROOT / "experiments" / "traces" / "quickstart.csv"


@dataclass(frozen=True)
class Outcome:
    """One kill: when, whether the link was shaped then, and how long until all was as before."""

    victim: str
    moment_s: float
    shaped: bool
    back_s: float

    @property
    def ok(self) -> bool:
        return self.back_s <= BOUND_S


class Router:
    """The lab's router, looked at from outside."""

    def __init__(self, lab: Lab) -> None:
        self.namespace = namespace_of(lab.lab_id, "router")
        self.before = self.state()

    def state(self) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            with IPRoute() as ipr:
                found = {
                    name: read_state(ipr, name, ipr.link_lookup(ifname=name)[0])
                    for name in (TO_DEVICE, TO_SERVER)
                }
            return {**found, "sysctls": read_sysctls()}

        return in_namespace(self.namespace, read)

    def changed(self) -> bool:
        now = self.state()
        sides = (TO_DEVICE, TO_SERVER)
        return now["sysctls"] != self.before["sysctls"] or any(
            differences(self.before[name], now[name]) for name in sides
        )

    def processes(self, word: str) -> list[int]:
        """Pids in the namespace whose command line has the word."""
        living = namespace_id(NETNS_DIR / self.namespace)
        assert living is not None
        return [pid for pid in inside({living}) if word in _command_line(pid)]

    def roles(self) -> list[int]:
        return self.processes("-m testbed.link")

    def journals(self) -> list[Path]:
        """Those that speak of a change; one that was only being opened says that there is none."""
        inode = (NETNS_DIR / self.namespace).stat().st_ino
        own = [path for path in journal.paths() if f"-{inode}-" in path.name]
        return [path for path in own if (entry := journal.read(path)) and entry.before]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _await(what: str, happened: Any) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not happened():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what}: not within {PATIENCE_S:g} s")
        time.sleep(PACE_S)


@contextmanager
def a_lab() -> Iterator[tuple[Lab, Router]]:
    """A virtual lab and its router."""
    with Lab.up(load_inventory(ROOT / "inventory" / "local.yaml")) as lab:
        yield lab, Router(lab)


def kill_one(lab: Lab, router: Router, victim: str, moment_s: float) -> Outcome:
    """Replay a trace, kill the victim some time after the role appears, wait for the link."""
    scratch = tempfile.TemporaryDirectory()  # what is killed cannot remove its own
    replay = subprocess.Popen(
        [sys.executable, "-m", "testbed", "link", "replay", str(TRACE), "--lab", lab.lab_id],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": scratch.name},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await("a role", router.roles)
        time.sleep(moment_s)  # the moment is what is varied
        victims = _victims(router, victim, replay.pid)
        shaped = router.changed()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        begin_s = time.monotonic()
        _await(
            "the link as before",
            lambda: not router.roles() and not router.journals() and not router.changed(),
        )
        return Outcome(victim, moment_s, shaped, time.monotonic() - begin_s)
    finally:
        replay.kill()
        replay.wait()
        scratch.cleanup()
        _await("the end of the roles", lambda: not router.roles())


def _victims(router: Router, victim: str, orchestrator: int) -> list[int]:
    if victim == "orchestrator":
        return [orchestrator]
    watched = [pid for pid in router.roles() if "watchdog" not in _command_line(pid)]
    if victim == "role":
        return watched
    return router.processes("sshd: ")  # the connection's own two, and the listener


def main(moments: int) -> int:
    """Run the matrix and print it; returns the exit status."""
    outcomes = []
    for victim in VICTIMS:
        for n in range(moments):
            with a_lab() as (lab, router):
                outcomes.append(kill_one(lab, router, victim, n * SPACING_S))
            print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    print("victim         moment  shaped  back after")
    for one in outcomes:
        verdict = "ok" if one.ok else "TOO LATE"
        shaped = "yes" if one.shaped else "no"
        print(f"{one.victim:13} {one.moment_s:5.2f} s  {shaped:6}  {one.back_s:5.2f} s  {verdict}")
    good = sum(one.ok for one in outcomes)
    print(f"{good} of {len(outcomes)} back within {BOUND_S:g} s")
    return 0 if good == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
