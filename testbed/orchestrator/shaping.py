"""Where the link is shaped, by which roles, and what each of them is told. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.config import Experiment, Inventory
from testbed.errors import UserError
from testbed.orchestrator.link_plan import direction_message, peak_bps, side_of
from testbed.orchestrator.plan import DIRECTIONS
from testbed.orchestrator.roles import host_of, link_suffixes
from testbed.traces.trace import Schedule

_TOLD = {
    "router": "the router",
    "ingress": "the receivers' ingress",
    "egress": "the senders' egress",
}


def prober_port(server_port: int, nth: int = 0) -> int:
    """The ``nth`` router's probers' port beside the server role's fixed one; 0 for any."""
    return server_port + 1 + nth if server_port else 0


def place_of(inventory: Inventory, can_ingress: Sequence[bool]) -> str:
    """``router``, ``ingress`` or ``egress``; ``auto`` is the best that the hosts can.

    At its own egress a sender's TCP holds back what would queue (TCP Small Queues): where
    packets arrive the queue is seen as a network's. ``can_ingress``: what each end's link role
    says of its host, once it has started.
    """
    if inventory.shaping != "auto":
        return inventory.shaping
    if inventory.host_of("link"):
        return "router"
    return "ingress" if can_ingress and all(can_ingress) else "egress"


@dataclass(frozen=True)
class Shaping:
    """The link roles of an inventory, for one place where the link is shaped."""

    inventory: Inventory
    place: str

    def __str__(self) -> str:
        return _TOLD[self.place]

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """Link role names to the directions each shapes: the router's, or one a host."""
        if self.place == "router":
            suffixes = link_suffixes(self.inventory).values() or ("",)
            return {f"link{s}": tuple(side + s for side in DIRECTIONS) for s in suffixes}
        if self.place == "ingress":
            return {"link-device": ("downlink",), "link-server": ("uplink",)}
        return {"link-device": ("uplink",), "link-server": ("downlink",)}

    def directions(
        self, role: str, experiment: Experiment, link: str, schedules: Mapping[str, Schedule]
    ) -> dict[str, dict[str, Any]]:
        """What a link role is told of the directions that it shapes, under one of the links."""
        place = {"ingress": self.place == "ingress", "flow": self._flow(role)}
        spec = experiment.link_at(link, host_of(self.inventory, role))
        return {
            side: place
            | direction_message(
                spec,
                side_of(side),
                schedules[side],
                peak_bps(experiment, schedules, side),
                self._interface(role, side),
            )
            for side in self.roles[role]
        }

    def _flow(self, role: str) -> dict[str, Any] | None:
        """The flow that a link role shapes, where its interface carries others too.

        It is the queries' and the probers', which are to meet the same link.
        """
        hosts = self.inventory.hosts
        own, device, server = (
            hosts[host_of(self.inventory, name)].data for name in (role, "device", "server")
        )
        if (
            self.place == "router"
            or own is None
            or not own.shared
            or server is None
            or device is None
        ):
            return None
        at_device = role == "link-device"
        peer = server if at_device else device
        return {
            "peer": str(peer.address),
            "ports": [server.port, prober_port(server.port)],
            "peer_is_server": at_device,
        }

    def _interface(self, role: str, side: str) -> str:
        name = host_of(self.inventory, role)
        host = self.inventory.hosts[name]
        if self.place != "router":
            assert host.data is not None, "the inventory's own check"
            return host.data.interface
        if host.router is None or not host.router.to_server:
            raise UserError(f"hosts.{name}.router: missing; give to_device and to_server")
        return host.router.to_server if side_of(side) == "uplink" else host.router.to_device
