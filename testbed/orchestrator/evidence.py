"""What every host is and was doing at a moment of a campaign, and where its clock stands."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
from typing import Any

from testbed.hosts.clock import ClockOffset, measure_offset
from testbed.hosts.connection import each
from testbed.hosts.environment import read_environment
from testbed.orchestrator.session import Session


def clocks(session: Session) -> dict[str, ClockOffset]:
    """Offset and bound of every host to the orchestrator, measured now."""
    roles = {session.host_of(name): role for name, role in session.roles.items()}
    return each("clocks", {host: partial(measure_offset, role) for host, role in roles.items()})


def environments(session: Session, watch_s: float = 0.0) -> dict[str, dict[str, Any]]:
    """What every host is, and the state it is in now, with its roles' greetings.

    With ``watch_s`` every host is watched for so long, while nothing of ours runs there.
    """
    own = _own_processes(session)
    ask = partial(read_environment, watch_s=watch_s)
    asked = {h: partial(ask, c, own=own[h]) for h, c in session.connections.items()}
    read = each("environment", asked)
    found: dict[str, dict[str, Any]] = {host: asdict(e) for host, e in read.items()}
    for name, role in session.roles.items():
        found[session.host_of(name)].setdefault("roles", {})[name] = role.hello
        told = session.ready.get(name, {}).get("engine")
        if told is not None:
            found[session.host_of(name)]["engine"] = told
    for host, (model, tools) in session.models.built.items():
        found[host]["built_model"] = {"archive_sha256": model.archive_sha256, "by": tools}
    for host, spec in session.inventory.hosts.items():
        found[host]["threads"] = spec.threads
        found[host]["accelerator"] = spec.accelerator
        found[host]["cpu_limit"] = {
            "cpus": spec.cpus,
            "cpuset": spec.cpuset,
            "not_applied": session.limits.get(host),
        }
    for name in session.link_roles:
        found[session.host_of(name)]["shaping"] = session.shaping.place
    if session.lab is not None:
        for router in session.inventory.routers:
            found[router]["router_kind"] = session.lab.router_kind
    return found


def _own_processes(session: Session) -> dict[str, list[int]]:
    """By host, the processes of ours from which all others of ours descend."""
    own: dict[str, list[int]] = {host: [] for host in session.connections}
    for name, role in session.roles.items():
        own[session.host_of(name)].append(role.hello["pid"])
    if session.lab is None:
        return own
    # Its hosts are this machine, and what runs there descends from this process; a guest's kernel
    # does too, but what runs in there has numbers of its own.
    guest = session.inventory.host_of("link") if session.lab.router_kind == "uml" else None
    here = {host: [os.getpid()] if host == session.host_of("server") else [] for host in own}
    return here | {host: pids for host, pids in own.items() if host == guest}
