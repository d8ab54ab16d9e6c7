"""What the roles are told for one run. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testbed.model.table import LOCAL, OFFLOAD
from testbed.traces.trace import Schedule


@dataclass(frozen=True)
class Told:
    """What one device decides by."""

    policy: dict[str, Any]
    profile: dict[str, Any] | None

    @property
    def chooses(self) -> bool:
        """Whether it goes by the profile; what a fixed choice measures holds whatever that says."""
        name: str = self.policy["name"]
        return name not in (LOCAL, OFFLOAD) and not name.startswith("static:")


@dataclass(frozen=True)
class Conditions:
    """What the roles are told for one run, beyond the plan.

    Attributes:
        devices: the device roles that take part.
    """

    schedules: Mapping[str, Schedule]
    devices: Mapping[str, Told]
    load: dict[str, Any] | None  # the load role's ``start``; None without load
    step_ns: int
    congestion_control: str | None

    @property
    def foretold(self) -> bool:
        """Whether a profile is to foretell the run: several devices slow each other."""
        told = list(self.devices.values())
        return len(told) == 1 and told[0].chooses
