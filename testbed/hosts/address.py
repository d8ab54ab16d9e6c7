"""Where a connection goes and what its faults mean, in one line each with the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import paramiko

from testbed.config import Host
from testbed.errors import UserError

SSH_PORT = 22


@dataclass(frozen=True)
class Address:
    """One hop: an SSH server, who we are there, and the file that knows its key."""

    address: str
    port: int
    user: str
    key: Path | None
    known_hosts: Path

    def __str__(self) -> str:
        return f"{self.user}@{self.address}:{self.port}"

    @property
    def known_as(self) -> str:
        """Its name in ``known_hosts``."""
        return self.address if self.port == SSH_PORT else f"[{self.address}]:{self.port}"


def hops_to(host: Host) -> list[Address]:
    """The SSH servers on the way to the host, itself last."""
    known_hosts = host.known_hosts.expanduser()
    hops = []
    if (jump := host.jump) is not None:
        hops.append(Address(jump.address, jump.port, jump.user, jump.key, known_hosts))
    assert host.address is not None, "the inventory or the virtual lab gives every host one"
    return [*hops, Address(host.address, host.port, host.user, host.key, known_hosts)]


def require_keys(hosts: Mapping[str, Host]) -> None:
    """UserError, before anything is begun, unless every private key named is a file here."""
    for name, host in hosts.items():
        for where, key in (("key", host.key), ("jump.key", host.jump.key if host.jump else None)):
            if key is not None and not key.expanduser().is_file():
                raise UserError(
                    f"hosts.{name}.{where}: no such file: {key}; make it with ssh-keygen, or leave "
                    "'key' out, so that the agent and ~/.ssh are asked"
                )


def load_keys(client: paramiko.SSHClient, hop: Address) -> None:
    """Give the client the known host keys; a missing file knows no host."""
    if hop.known_hosts.is_file():
        client.load_system_host_keys(str(hop.known_hosts))


def explain(hop: Address, client: paramiko.SSHClient, error: Exception) -> str:
    """One line: what went wrong with the hop, and what to do about it."""
    scan = f"ssh-keyscan -p {hop.port} {hop.address} >> {hop.known_hosts}"
    if isinstance(error, paramiko.BadHostKeyException):
        return (
            f"{hop}: the host key has CHANGED: {hop.known_hosts} has "
            f"{_shown(error.expected_key)}, the host shows {_shown(error.key)}; another machine "
            "may be answering. If the host was reinstalled, compare with 'ssh-keygen -lf' on it, "
            f"then: ssh-keygen -R '{hop.known_as}' -f {hop.known_hosts}; {scan}"
        )
    if isinstance(error, paramiko.PasswordRequiredException):
        return (
            f"{hop}: the key {hop.key or '~/.ssh'} has a passphrase; run 'ssh-add' and leave "
            "'key' out, so that the agent is asked"
        )
    if isinstance(error, paramiko.AuthenticationException):
        return (
            f"{hop}: the host does not accept {hop.key or 'any key of the agent or ~/.ssh'}; "
            f"try: ssh-copy-id -p {hop.port} {hop.user}@{hop.address}"
        )
    if "not found in known_hosts" in str(error):
        return (
            f"{hop}: unknown host key {_shown(_offered(client))}: {hop.known_hosts} has none for "
            f"{hop.known_as}; compare with 'ssh-keygen -lf' on the host, then: {scan}"
        )
    if isinstance(error, FileNotFoundError):
        return f"{hop}: no such key file: {hop.key}"
    told = str(error) or type(error).__name__
    return f"{hop}: no SSH connection: {told}; check that the host is up and runs sshd there"


def _offered(client: paramiko.SSHClient) -> paramiko.PKey:
    transport = client.get_transport()
    assert transport is not None, "the key was seen"
    return transport.get_remote_server_key()


def _shown(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.fingerprint}"
