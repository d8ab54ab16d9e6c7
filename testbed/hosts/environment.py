"""What each host is and was doing, recorded before and after every run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from testbed.hosts.connection import Connection


@dataclass(frozen=True)
class Environment:
    """A host at one moment of its monotonic clock (``t_ns``); None where it does not say.

    Ticks count since boot over all CPUs at ``t_ns``; ``own_ticks`` are those of the processes asked
    about and of their children. ``busy_share`` is the share of CPU time that was in use
    while the host was watched, ``qdiscs`` the root's kind by interface. ``cgroup`` holds the limit
    files of the role asked about; ``ssh_interfaces`` those that carry this SSH session.
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
    frequency_min_hz: int | None
    frequency_max_hz: int | None
    celsius: float | None
    memory_bytes: int | None
    memory_available_bytes: int | None
    load_average: list[float]
    busy_share: float | None
    ticks_per_s: int
    idle_ticks: int
    irq_ticks: int
    steal_ticks: int
    own_ticks: int
    python: str
    torch: str | None
    gpus: list[str]
    sysctls: dict[str, str]
    cgroup: dict[str, str]
    interfaces: dict[str, list[str]]
    qdiscs: dict[str, str]
    ssh_interfaces: list[str]
    disk_free_bytes: int
    root: bool
    sudo: bool | None
    t_ns: int


def read_environment(
    connection: Connection,
    *,
    pid: int | None = None,
    own: Sequence[int] = (),
    sudo: bool = False,
    watch_s: float = 0.0,
) -> Environment:
    """Ask the host, with a role's ``pid`` for its CPU limits; raises HostError.

    ``own`` are the processes whose CPU time is asked for, with their children's. With ``watch_s``
    the host is watched for so long, to tell what else runs there.
    """
    asked = json.dumps({"pid": pid, "own": own, "sudo": sudo, "watch_s": watch_s})
    return Environment(**json.loads(connection.script("facts", asked)))
