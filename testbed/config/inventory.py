"""The inventory file: the hosts, their roles and how to reach them."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from testbed.config.fields import Name, Strict, read_yaml
from testbed.errors import UserError

RoleName = Literal["device", "server", "link", "load"]


class DataPath(Strict):
    """The interface that carries the queries.

    ``shared``: it carries SSH and more, too; then only the queries' own flow is shaped.
    """

    interface: str
    address: IPv4Address
    port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: any free port (server only)
    shared: bool = False


class RouterPath(Strict):
    """A router's two shaped interfaces; in the virtual lab, which kernel it has.

    ``kind``: ``namespace`` shares this machine's kernel, ``uml`` brings its own (user-mode
    Linux), ``auto`` takes the first unless the links need netem and this kernel has none.
    """

    kind: Literal["auto", "namespace", "uml"] = "auto"
    to_device: str = ""
    to_server: str = ""


class Jump(Strict):
    """A host to pass through on the way."""

    address: str
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: str
    key: Path | None = None


class Host(Strict):
    """One host. In the virtual lab only roles and CPU limits are written; the rest is filled in."""

    roles: tuple[RoleName, ...] = Field(min_length=1)
    address: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: str = "root"
    key: Path | None = None
    known_hosts: Path = Path("~/.ssh/known_hosts")
    jump: Jump | None = None
    python: str = "python3"
    environment: dict[str, str] = Field(default_factory=dict)
    sudo: bool = False  # the link role is started with `sudo -n`
    threads: Annotated[int, Field(ge=1)] = 1
    accelerator: Literal["cpu", "cuda"] = "cpu"
    data: DataPath | None = None
    router: RouterPath | None = None
    cpus: Annotated[float, Field(gt=0)] | None = None  # virtual lab: share of CPU time
    cpuset: Annotated[str, Field(pattern=r"^[0-9,-]+$")] | None = None  # virtual lab

    @model_validator(mode="after")
    def _data_apart_from_ssh(self) -> Host:
        if self.data and not self.data.shared and self.address == str(self.data.address):
            raise ValueError(
                f"data.address: {self.address} also carries SSH; shaping it would shape the "
                "management path: give the address of another interface, or say 'shared: true' "
                "to shape the queries' flow alone"
            )
        return self


class Inventory(Strict):
    """All hosts of a lab, by name."""

    lab: Literal["local"] | None = None
    # Where the link is shaped; auto: at a router, else where packets arrive, else where they leave.
    shaping: Literal["auto", "router", "egress", "ingress"] = "auto"
    # Virtual lab: that many devices, each like the one that is written.
    devices: Annotated[int, Field(ge=1, le=16)] = 1
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
        if len([host for host in self.hosts.values() if "link" in host.roles]) > 1:
            raise ValueError("hosts: expected at most one host with role link (the router)")
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
        if self.devices > 1 or len(devices) > 1:
            router = self.host_of("link")
            if router is None or router in (*devices, *self.hosts_of("server")):
                raise ValueError(
                    "hosts: several devices share the link of a router: give a host of its own the "
                    "role link"
                )
        return self

    def host_of(self, role: RoleName) -> str | None:
        """Name of the first host that has the role, or None where no host has it."""
        return next(iter(self.hosts_of(role)), None)

    def hosts_of(self, role: RoleName) -> tuple[str, ...]:
        """Names of all hosts that have the role."""
        return tuple(name for name, host in self.hosts.items() if role in host.roles)

    @property
    def with_every_device(self) -> Inventory:
        """The inventory with ``devices`` hosts named by number where one device is written."""
        written = self.hosts_of("device")
        if self.devices == 1 or len(written) > 1:
            return self
        (one,) = written
        fleet = {f"{one}{number}": self.hosts[one] for number in range(1, self.devices + 1)}
        others = {name: host for name, host in self.hosts.items() if name != one}
        if taken := set(fleet) & set(others):
            raise UserError(f"hosts.{min(taken)}: the name is one of the {self.devices} devices'")
        return self.model_copy(update={"hosts": fleet | others})


def load_inventory(path: Path) -> Inventory:
    """Read an inventory file; raises UserError naming the file and YAML path of every fault."""
    return read_yaml(path, Inventory).with_every_device
