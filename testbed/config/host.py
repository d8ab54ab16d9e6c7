"""One host of the inventory: what it is for and how to reach it."""

from __future__ import annotations

import reprlib
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from testbed.config.fields import EachOnce, Flag, Name, Number, Strict, Whole, written

RoleName = Literal["device", "server", "link", "load"]
_MOST_CPUS = 1024


def _host_address(text: object) -> IPv4Address:
    # The type alone also takes a number.
    try:
        address = IPv4Address(text if isinstance(text, IPv4Address) else str(text))
    except ValueError:
        address = None
    if address is None or address.is_unspecified or address.is_multicast or address.is_reserved:
        raise ValueError(f"expected a host's IPv4 address, got {reprlib.repr(text)}")
    return address


def _cpu_list(text: str) -> str:
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdigit() and len(end) <= 4 for end in ends) or (
            int(ends[0]) > int(ends[1])
        ):
            raise ValueError(f'expected CPUs such as "0,2-3", got {reprlib.repr(text)}')
    return text


def _file_path(text: object) -> object:
    # Path takes an empty name for the working directory.
    if isinstance(text, str) and (not text.strip() or "\n" in text):
        raise ValueError(f"expected the path of a file, got {reprlib.repr(text)}")
    return text


Port = Annotated[Whole, Field(ge=1, le=65535)]
# The kernel's own bounds of an interface's name; tc reads a colon and a dash otherwise.
Interface = Annotated[
    str, written(r"[^\s/:-][^\s/:]{0,14}", "the name of a network interface such as eth0")
]
SshAddress = Annotated[str, written(r"[^\s/@-][^\s/@]{0,254}", "a host name or an IP address")]
User = Annotated[str, written(r"[^\s:/@-][^\s:/@]*", "the name of a user")]
# env, which starts it, takes what has an equals sign for a setting.
Command = Annotated[str, written(r"[^\s=-][^\n=]*", "python3 or the path of a Python")]
VariableName = Annotated[
    str, written(r"[A-Za-z_][A-Za-z0-9_]*", "a variable's name: letters, digits and _")
]
FilePath = Annotated[Path, BeforeValidator(_file_path)]


class DataPath(Strict):
    """The interface that carries the queries.

    ``shared``: it carries SSH and more, too; then only the queries' own flow is shaped.
    """

    interface: Interface
    address: Annotated[IPv4Address, BeforeValidator(_host_address)]
    port: Annotated[Whole, Field(ge=0, le=65535)] = 0  # 0: any free port (server only)
    shared: Flag = False


class RouterPath(Strict):
    """A router's two shaped interfaces; in the virtual lab, which kernel it has.

    ``kind``: ``namespace`` shares this machine's kernel, ``uml`` brings its own (user-mode
    Linux), ``auto`` takes the first unless the links need netem and this kernel has none.
    ``devices``: those behind it, where there are several routers, each a link of its own.
    """

    kind: Literal["auto", "namespace", "uml"] = "auto"
    to_device: Interface = ""
    to_server: Interface = ""
    devices: Annotated[tuple[Name, ...], EachOnce] = ()

    @model_validator(mode="after")
    def _two(self) -> RouterPath:
        if self.to_device and self.to_device == self.to_server:
            raise ValueError(f"to_server: expected another than to_device, got {self.to_server!r}")
        return self


class Jump(Strict):
    """A host to pass through on the way."""

    address: SshAddress
    port: Port = 22
    user: User
    key: FilePath | None = None


class Host(Strict):
    """One host.

    In the virtual lab only roles, CPU limits and perhaps a Python other than the orchestrator's are
    written; the rest is filled in.
    """

    roles: Annotated[tuple[RoleName, ...], EachOnce] = Field(min_length=1)
    address: SshAddress | None = None
    port: Port = 22
    user: User = "root"
    key: FilePath | None = None
    known_hosts: FilePath = Path("~/.ssh/known_hosts")
    jump: Jump | None = None
    python: Command = "python3"
    environment: dict[VariableName, str] = Field(default_factory=dict)
    sudo: Flag = False  # the link role is started with `sudo -n`
    threads: Annotated[Whole, Field(ge=1, le=_MOST_CPUS)] = 1
    accelerator: Literal["cpu", "cuda"] = "cpu"
    data: DataPath | None = None
    router: RouterPath | None = None
    # Virtual lab: share of CPU time, and which CPUs. The kernel meters no share below 0.05.
    cpus: Annotated[Number, Field(ge=0.05, le=_MOST_CPUS)] | None = None
    cpuset: Annotated[str, AfterValidator(_cpu_list)] | None = None

    @model_validator(mode="after")
    def _router_of_a_link(self) -> Host:
        if self.router and "link" not in self.roles:
            raise ValueError("router: only of the host that has the role link")
        return self

    @model_validator(mode="after")
    def _data_apart_from_ssh(self) -> Host:
        if self.data and not self.data.shared and self.address == str(self.data.address):
            raise ValueError(
                f"data.address: {self.address} also carries SSH; shaping it would shape the "
                "management path: give the address of another interface, or say 'shared: true' "
                "to shape the queries' flow alone"
            )
        return self
