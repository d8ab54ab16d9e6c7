"""What each host is and was doing, recorded before and after every run."""

from __future__ import annotations

import json
from dataclasses import dataclass

from testbed.hosts.connection import Connection


@dataclass(frozen=True)
class Environment:
    """A host at one moment of its monotonic clock (``t_ns``); None where it does not say.

    Ticks count since boot over all CPUs. ``cgroup`` holds the limit files of the role asked about;
    ``ssh_interfaces`` those that carry this SSH session.
    """

    hostname: str
    boot_id: str | None
    machine: str
    kernel: str
    os: str | None
    cpu_model: str | None
    cpu_count: int
    governor: str | None
    frequency_hz: int | None
    memory_bytes: int | None
    memory_available_bytes: int | None
    load_average: list[float]
    steal_ticks: int
    total_ticks: int
    python: str
    torch: str | None
    gpus: list[str]
    sysctls: dict[str, str]
    cgroup: dict[str, str]
    interfaces: dict[str, list[str]]
    ssh_interfaces: list[str]
    disk_free_bytes: int
    root: bool
    sudo: bool | None
    t_ns: int


def read_environment(
    connection: Connection, *, pid: int | None = None, sudo: bool = False
) -> Environment:
    """Ask the host, with a role's ``pid`` for its CPU limits; raises HostError."""
    asked = json.dumps({"pid": pid, "sudo": sudo})
    return Environment(**json.loads(connection.script("facts", asked)))


def steal_share(before: Environment, after: Environment) -> float:
    """Share of CPU time between two moments that the hypervisor gave to others, 0 to 1.

    Raises ValueError when the host was restarted in between or no tick has passed.
    """
    total = after.total_ticks - before.total_ticks
    if before.boot_id != after.boot_id or total <= 0:
        raise ValueError(
            f"{after.hostname}: expected a later moment of one boot, got {total} ticks"
        )
    return (after.steal_ticks - before.steal_ticks) / total
