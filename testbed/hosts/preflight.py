"""What must hold on every host before a campaign begins; nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from testbed.config import Host
from testbed.errors import UserError
from testbed.hosts.connection import Connection, each
from testbed.hosts.environment import Environment, read_environment
from testbed.units import format_size

PYTHON_MINIMUM = (3, 10)
# The oldest tried: head and tail equalled the whole on eight networks. An operator that a torch
# lacks is told when it reads the archive.
TORCH_MINIMUM = (2, 2)
DISK_MINIMUM_BYTES = 500_000_000

State = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One check on one host; ``remedy`` is empty where it passed."""

    host: str
    check: str
    state: State
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.host}: {self.check}: {self.text}" + (self.remedy and f"; {self.remedy}")


def preflight(connections: Mapping[str, Connection], *, needs_torch: bool) -> list[Finding]:
    """Ask every host at once and judge the answers; raises GroupError when one gives none.

    ``needs_torch`` is whether a model is to be run at all.
    """
    facts = each(
        "preflight",
        {
            name: partial(read_environment, connection, sudo=connection.host.sudo)
            for name, connection in connections.items()
        },
    )
    hosts = {name: connection.host for name, connection in connections.items()}
    shapers = shaping_hosts(hosts)
    return [
        finding
        for name, host in hosts.items()
        for finding in judge(name, host, facts[name], name in shapers, needs_torch=needs_torch)
    ]


def require(findings: Iterable[Finding]) -> None:
    """Raise UserError with one line for each finding that failed."""
    if failed := [str(finding) for finding in findings if finding.state == "fail"]:
        raise UserError("\n".join(failed))


def shaping_hosts(hosts: Mapping[str, Host]) -> set[str]:
    """The router, or, where there is none, both senders."""
    routers = {name for name, host in hosts.items() if "link" in host.roles}
    senders = {name for name, host in hosts.items() if {"device", "server"} & set(host.roles)}
    return routers or senders


def judge(
    name: str, host: Host, facts: Environment, shapes: bool, *, needs_torch: bool = True
) -> Iterator[Finding]:
    """The findings for one host from its facts."""
    yield _python(name, facts)
    if needs_torch and {"device", "server", "load"} & set(host.roles):
        yield _torch(name, facts)
    if shapes:
        yield _privilege(name, host, facts)
    yield from _interfaces(name, host, facts)
    if host.accelerator == "cuda":
        yield _accelerator(name, facts)
    yield _disk(name, facts)


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])


def _python(name: str, facts: Environment) -> Finding:
    if _numbers(facts.python) >= PYTHON_MINIMUM:
        return Finding(name, "python", "pass", facts.python)
    wanted = ".".join(map(str, PYTHON_MINIMUM))
    return Finding(
        name,
        "python",
        "fail",
        f"expected ≥ {wanted}, got {facts.python}",
        f"set hosts.{name}.python to a newer one",
    )


def _torch(name: str, facts: Environment) -> Finding:
    minimum = ".".join(map(str, TORCH_MINIMUM))
    if facts.torch is None:
        return Finding(
            name,
            "torch",
            "fail",
            f"not installed for that python; expected ≥ {minimum}",
            f"install it there, or set hosts.{name}.python to the python that has it",
        )
    if _numbers(facts.torch) < TORCH_MINIMUM:
        return Finding(
            name,
            "torch",
            "fail",
            f"expected ≥ {minimum} to read the model archive, got {facts.torch}",
            "install a newer torch there",
        )
    return Finding(name, "torch", "pass", facts.torch)


def _privilege(name: str, host: Host, facts: Environment) -> Finding:
    if facts.root or (host.sudo and facts.sudo):
        return Finding(name, "privilege", "pass", "root" if facts.root else "sudo -n")
    if not host.sudo:
        remedy = f"write hosts.{name}.sudo: true, or log in as root"
        return Finding(name, "privilege", "fail", "the link role needs root to shape", remedy)
    remedy = f"let {host.user} use sudo without a password (NOPASSWD in /etc/sudoers.d)"
    return Finding(name, "privilege", "fail", "'sudo -n true' is refused", remedy)


def _interfaces(name: str, host: Host, facts: Environment) -> Iterator[Finding]:
    wanted: dict[str, str] = {}
    if host.data is not None:
        wanted["data.interface"] = host.data.interface
    if host.router is not None:
        wanted["router.to_device"] = host.router.to_device
        wanted["router.to_server"] = host.router.to_server
    for key, interface in wanted.items():
        address = str(host.data.address) if host.data and key == "data.interface" else None
        shared = key == "data.interface" and host.data is not None and host.data.shared
        yield _interface(name, f"hosts.{name}.{key}", interface, address, facts, shared)


def _interface(
    name: str, key: str, interface: str, address: str | None, facts: Environment, shared: bool
) -> Finding:
    if interface not in facts.interfaces:
        there = ", ".join(sorted(facts.interfaces))
        return Finding(name, key, "fail", f"no interface {interface!r}", f"there are {there}")
    if interface in facts.ssh_interfaces and not shared:
        return Finding(
            name,
            key,
            "fail",
            f"{interface} carries SSH; shaping it would shape the management path",
            "give another interface, reach the host by another address, or say data.shared: true",
        )
    addresses = facts.interfaces[interface]
    if address is not None and address not in addresses:
        return Finding(
            name,
            key,
            "fail",
            f"expected address {address} on {interface}, got {', '.join(addresses) or 'none'}",
            f"correct hosts.{name}.data.address",
        )
    return Finding(name, key, "pass", f"{interface} {address or ''}".strip())


def _accelerator(name: str, facts: Environment) -> Finding:
    if facts.gpus:
        return Finding(name, "accelerator", "pass", "; ".join(facts.gpus))
    # A Jetson has CUDA without nvidia-smi: the role is the one to tell.
    return Finding(
        name,
        "accelerator",
        "warn",
        "nvidia-smi shows no GPU",
        f"if there is none, write hosts.{name}.accelerator: cpu",
    )


def _disk(name: str, facts: Environment) -> Finding:
    free = format_size(facts.disk_free_bytes)
    if facts.disk_free_bytes >= DISK_MINIMUM_BYTES:
        return Finding(name, "disk", "pass", f"{free} free")
    wanted = format_size(DISK_MINIMUM_BYTES)
    text = f"expected {wanted} free for the cache folder, got {free}"
    return Finding(name, "disk", "fail", text, "make room, or set XDG_CACHE_HOME in environment")
