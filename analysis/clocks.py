"""Puts the clocks of several hosts on one axis: seconds since the device began to measure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from analysis.documents import Document


@dataclass(frozen=True)
class HostClock:
    """A host's monotonic clock minus the orchestrator's, and how far off that may be."""

    host: str
    offset_ns: float
    bound_ns: float
    drift_ns: float

    @classmethod
    def from_json(cls, host: str, document: Document) -> HostClock | None:
        """From the measurements before and after a run; None where neither succeeded."""
        found = [document[key] for key in ("before", "after") if document.get(key)]
        if not found:
            return None
        offsets = [float(measured["offset_ns"]) for measured in found]
        drift_ns = offsets[-1] - offsets[0]
        # Between the two the clock may lie anywhere from one to the other.
        bound_ns = max(float(measured["bound_ns"]) for measured in found) + abs(drift_ns) / 2
        return cls(host, sum(offsets) / len(offsets), bound_ns, drift_ns)


def clocks_of(clock: Document, environments: Mapping[str, Document]) -> dict[str, HostClock]:
    """Each role's clock, by what ``clock.json`` and the environments say about its host."""
    clocks = {}
    for host, document in clock.get("hosts", {}).items():
        measured = HostClock.from_json(host, document)
        if measured is not None:
            for role in environments.get(host, {}).get("roles", {}):
                clocks[role] = measured
    return clocks


@dataclass(frozen=True)
class Axis:
    """One run's time axis; without clock offsets each role counts from its own start."""

    t0_ns: Mapping[str, float]
    clocks: Mapping[str, HostClock]

    @classmethod
    def of_run(
        cls,
        t0_ns: Mapping[str, int],
        clocks: Mapping[str, HostClock],
        tables: Mapping[str, pa.Table],
    ) -> Axis:
        """The axis; a start that no manifest tells is taken from the first record."""
        starts: dict[str, float] = {role: float(t_ns) for role, t_ns in t0_ns.items()}
        queries, link = tables["queries"], tables["link"]
        begun = [queries.filter(pc.not_equal(queries["kind"], "warmup"))["t_start_ns"]]
        times = {"device": begun, "load": [tables["load"]["t_ns"]]}
        times["server"] = [tables["server"]["t_ns"]]
        for side in pc.unique(link["direction"]).to_pylist():
            planned = link.filter(pc.equal(link["direction"], side))["t_planned_ns"]
            role = _link_role(side, {*clocks, *starts})
            times.setdefault(role, []).append(planned)
        for role, columns in times.items():
            first = [t_ns for column in columns if (t_ns := pc.min(column).as_py()) is not None]
            if first:
                starts.setdefault(role, float(min(first)))
        return cls(starts, clocks)

    def link_role(self, side: str) -> str:
        """The role that shapes a direction: the router's, or the sender's own."""
        return _link_role(side, {*self.clocks, *self.t0_ns})

    def device_role(self, host: str) -> str:
        """The role of one of several devices, by its host."""
        roles = (r for r, c in self.clocks.items() if r.startswith("device-") and c.host == host)
        return next(roles, "device")

    @property
    def shared(self) -> bool:
        """Whether the link's and the device's times are tied by measured clock offsets."""
        return "device" in self.clocks and self.link_role("uplink") in self.clocks

    def origin_ns(self, role: str) -> float:
        """When the device began, by the role's own clock; NaN where nothing tells it."""
        device, other = self.clocks.get("device"), self.clocks.get(role)
        if device is not None and other is not None and "device" in self.t0_ns:
            return self.t0_ns["device"] - device.offset_ns + other.offset_ns
        return self.t0_ns.get(role, float("nan"))


def _link_role(side: str, roles: Collection[str]) -> str:
    """A router's role is named as its directions are: ``link-north`` has ``uplink-north``."""
    _, dash, router = side.partition("-")
    return f"link{dash}{router}" if router or "link" in roles else _SENDERS[side]


_SENDERS = {"uplink": "link-device", "downlink": "link-server"}
