"""A shell, or one command, in a host's namespace, without SSH."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys

from testbed.errors import UserError
from testbed.lab import journal
from testbed.lab.network import in_namespace
from testbed.lab.sshd import home_of


def shell(host: str, lab_id: str | None = None, argv: list[str] | None = None) -> int:
    """Run a shell (or ``argv``) as root in the host's namespace; returns its exit status.

    Without ``lab_id`` the one lab there is. Raises UserError where that is not clear or the lab
    has no such host.
    """
    lab = journal.read(lab_id or _only_lab())
    if host not in lab.hosts:
        raise UserError(f"lab {lab.lab_id}: no host {host}; expected one of {', '.join(lab.hosts)}")
    command = argv or [os.environ.get("SHELL", "/bin/sh")]
    if lab.hosts[host].kernel == "uml":
        command = _by_ssh(lab, host, argv or [])
    environment = {**os.environ, "HOME": str(home_of(lab.run_dir, host)), "TESTBED_HOST": host}
    namespace = lab.hosts[host].namespace
    try:
        if lab.hosts[host].kernel == "uml":  # its address is reached from outside
            process = subprocess.Popen(command)
        else:
            process = in_namespace(namespace, lambda: subprocess.Popen(command, env=environment))
    except OSError as error:
        raise UserError(f"lab {lab.lab_id}: {host}: cannot run {command[0]}: {error}") from error
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for what runs inside
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def _by_ssh(lab: journal.Journal, host: str, argv: list[str]) -> list[str]:
    """A guest has a kernel of its own: its namespace here shows none of what is inside."""
    entry = lab.hosts[host]
    return [
        *("ssh", "-F", "/dev/null", "-i", str(lab.run_dir / "client_key")),
        *("-o", f"UserKnownHostsFile={lab.run_dir / 'known_hosts'}", "-p", str(entry.port)),
        *("-t" if sys.stdin.isatty() else "-T", f"root@{entry.address}"),
        *map(shlex.quote, argv),
    ]


def _only_lab() -> str:
    labs = journal.lab_ids()
    if len(labs) != 1:
        told = ", ".join(labs) or "none; make one (testbed lab up)"
        raise UserError(f"lab: expected exactly one lab, or its id; there is: {told}")
    return labs[0]
