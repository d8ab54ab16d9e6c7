"""What others than the testbed did on a run's machines while it went on, from their CPU time.

A load that was there before a run is seen before it; one that comes during the run is seen here.
On a real host what is ours beside the roles (sshd, perhaps the orchestrator) counts as others' and
is much the same in every run, so a run is compared with those before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

Readings = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]


def others_share(hosts: Readings) -> dict[str, float]:
    """Share of each machine's CPU time that was neither idle, nor stolen, nor the testbed's.

    Args:
        hosts: each host's environment before and after.

    Hosts of one machine (those of the virtual lab) are one entry, named by all of them; one that
    was restarted, or does not say which boot it is in, has none.
    """
    machines: dict[str, list[str]] = {}
    for host, (before, after) in hosts.items():
        boot = before.get("boot_id")
        if boot is not None and boot == after.get("boot_id"):
            machines.setdefault(boot, []).append(host)
    return {
        ", ".join(names): _share([hosts[name] for name in names]) for names in machines.values()
    }


def _share(readings: list[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> float:
    before, after = readings[0]
    # Time that is not idle, and not the sum of busy ticks: those the kernel may only sample, and
    # work that a quota starts at regular moments is then counted too often or never.
    span_s = (after["t_ns"] - before["t_ns"]) / 1e9
    ticks = span_s * before["ticks_per_s"] * before["cpu_count"]
    # Packets are work of ours too, or else a policy that sends would seem disturbed.
    apart = ("idle_ticks", "irq_ticks", "steal_ticks")
    others = ticks - sum(after[key] - before[key] for key in apart)
    own = sum(last["own_ticks"] - first["own_ticks"] for first, last in readings)
    return float((others - own) / ticks)


class Usual:
    """The shares of a session's runs so far, by machine; their median is the usual one."""

    def __init__(self) -> None:
        self._shares: dict[str, list[float]] = {}

    def compare(self, shares: Mapping[str, float]) -> dict[str, tuple[float, float]]:
        """Each share with the usual one, where a run was before; then it is one of them."""
        found = {}
        for machine, share in shares.items():
            earlier = self._shares.setdefault(machine, [])
            if earlier:
                found[machine] = (share, median(earlier))
            earlier.append(share)
        return found
