"""The inventory file: the hosts by name, and which of them make a lab."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from testbed.config.fields import Name, Strict, Whole, read_yaml
from testbed.config.host import Host, RoleName
from testbed.errors import UserError


class Inventory(Strict):
    """All hosts of a lab, by name."""

    lab: Literal["local"] | None = None
    # Where the link is shaped; auto: at a router, else where packets arrive, else where they leave.
    shaping: Literal["auto", "router", "egress", "ingress"] = "auto"
    # Virtual lab: that many devices, each like the one that is written.
    devices: Annotated[Whole, Field(ge=1, le=16)] = 1
    hosts: dict[Name, Host] = Field(min_length=1)

    @model_validator(mode="after")
    def _roles_covered(self) -> Inventory:
        if not self.hosts_of("device"):
            raise ValueError("hosts: expected a host with role device, got none; add it to one")
        servers = self.hosts_of("server")
        if len(servers) != 1:
            raise ValueError(
                "hosts: expected exactly one host with role server, got "
                f"{', '.join(servers) or 'none'}; add it to that host's roles"
            )
        if len(several := self.hosts_of("load")) > 1:
            raise ValueError(
                f"hosts: expected at most one host with role load, got {', '.join(several)}"
            )
        if self.shaping == "router" and self.host_of("link") is None:
            raise ValueError("shaping: router: no host has the role link; give it to the router")
        server = self.hosts[self.host_of("server") or ""].data
        shared = [name for name, host in self.hosts.items() if host.data and host.data.shared]
        if shared and (server is None or server.port == 0):
            raise ValueError(
                f"hosts.{shared[0]}.data.shared: the flow to shape is known by the server's port: "
                "give the server's data.port"
            )
        for name, host in self.hosts.items():
            if self.lab is None:
                self._check_real(name, host)
        return self

    @model_validator(mode="after")
    def _data_addresses_apart(self) -> Inventory:
        owners: dict[IPv4Address, str] = {}
        for name, host in self.hosts.items():
            if host.data and (owner := owners.setdefault(host.data.address, name)) != name:
                raise ValueError(
                    f"hosts.{name}.data.address: {host.data.address} is also that of {owner}; "
                    "give each host its own"
                )
        return self

    def _check_real(self, name: str, host: Host) -> None:
        if host.address is None:
            raise ValueError(f"hosts.{name}.address: missing; give the SSH address")
        if host.cpus is not None or host.cpuset is not None:
            raise ValueError(f"hosts.{name}.cpus: only in the virtual lab (lab: local)")
        if {"device", "server"} & set(host.roles) and host.data is None:
            raise ValueError(f"hosts.{name}.data: missing; give interface and address")
        if "link" in host.roles and host.router is None and host.data is None:
            raise ValueError(f"hosts.{name}.router: missing; give to_device and to_server")
        if host.router and not (host.router.to_device and host.router.to_server):
            raise ValueError(f"hosts.{name}.router: expected to_device and to_server, got one less")
        if host.router and host.router.kind != "auto":
            raise ValueError(f"hosts.{name}.router.kind: only in the virtual lab (lab: local)")

    @model_validator(mode="after")
    def _fleet(self) -> Inventory:
        devices = self.hosts_of("device")
        if self.devices > 1:
            if self.lab is None:
                raise ValueError("devices: only in the virtual lab; write every real device's host")
            if len(devices) not in (1, self.devices):
                raise ValueError(
                    f"devices: expected one host with role device, to be made {self.devices}, got "
                    f"{', '.join(devices)}"
                )
        routers = self.hosts_of("link")
        if self.devices > 1 or len(devices) > 1:
            ends = {*devices, *self.hosts_of("server")}
            if not routers or ends & set(routers):
                raise ValueError(
                    "hosts: several devices need a router, whose link they share, or several: give "
                    "a host that is neither device nor server the role link, or leave one device"
                )
        named = any(r.devices for name in routers if (r := self.hosts[name].router))
        if len(routers) > 1 or named:
            self._behind_one_each(routers)
        return self

    def _behind_one_each(self, routers: tuple[str, ...]) -> None:
        """Every device is behind one of the routers, whose link is its devices' and no others'."""
        due = list(self._every_device)
        for name in routers:
            router = self.hosts[name].router
            if router is None or not router.devices:
                raise ValueError(
                    f"hosts.{name}.router.devices: missing; with several routers each names the "
                    "devices behind it"
                )
            for device in router.devices:
                if device not in due:
                    raise ValueError(
                        f"hosts.{name}.router.devices: {device} is "
                        + ("behind another router" if device in self._every_device else "no device")
                        + f"; devices are {', '.join(self._every_device)}"
                    )
                due.remove(device)
        if due:
            raise ValueError(
                f"hosts: {due[0]} is behind no router; name it in a router's router.devices"
            )
        if self.shaping not in ("auto", "router"):
            raise ValueError(f"shaping: expected router, with several of them, got {self.shaping}")

    def host_of(self, role: RoleName) -> str | None:
        """Name of the first host that has the role, or None where no host has it."""
        return next(iter(self.hosts_of(role)), None)

    def hosts_of(self, role: RoleName) -> tuple[str, ...]:
        """Names of all hosts that have the role."""
        return tuple(name for name, host in self.hosts.items() if role in host.roles)

    @property
    def routers(self) -> dict[str, tuple[str, ...]]:
        """Each router and the devices behind it; none where a link's role is an end's."""
        ends = {*self.hosts_of("device"), *self.hosts_of("server")}
        found = {}
        for name in self.hosts_of("link"):
            if name not in ends:
                router = self.hosts[name].router
                found[name] = (router and router.devices) or self._every_device
        return found

    @property
    def _every_device(self) -> tuple[str, ...]:
        """The devices as :attr:`with_every_device` names them."""
        written = self.hosts_of("device")
        if self.devices == 1 or len(written) > 1:
            return written
        return tuple(f"{written[0]}{number}" for number in range(1, self.devices + 1))

    @property
    def with_every_device(self) -> Inventory:
        """The inventory with ``devices`` hosts named by number where one device is written."""
        written = self.hosts_of("device")
        if self.devices == 1 or len(written) > 1:
            return self
        (one,) = written
        fleet = dict.fromkeys(self._every_device, self.hosts[one])
        others = {name: host for name, host in self.hosts.items() if name != one}
        if taken := set(fleet) & set(others):
            raise UserError(f"hosts.{min(taken)}: the name is one of the {self.devices} devices'")
        return self.model_copy(update={"hosts": fleet | others})


def load_inventory(path: Path) -> Inventory:
    """Read an inventory file; raises UserError naming the file and YAML path of every fault."""
    return read_yaml(path, Inventory).with_every_device
