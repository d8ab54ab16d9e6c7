"""A lab brought up, its hosts filled into the inventory, and taken down again."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from testbed.config import Host, Inventory
from testbed.config.host import DataPath, RouterPath
from testbed.errors import HostError, UserError
from testbed.lab import cgroup, journal, network, processes, sshd, uml
from testbed.lab.journal import Entry, Journal
from testbed.lab.layout import (
    DATA_LINK,
    SSH_PORT,
    TO_DEVICE,
    TO_SERVER,
    Layout,
    check_id,
    free_subnet,
    plan_layout,
)
from testbed.lab.sshd import Listener, Tools
from testbed.lab.teardown import down


class Lab:
    """A lab that is up; a context manager that takes it down.

    Attributes:
        inventory: the inventory given, with address, port, user, key, ``known_hosts``, python and
            data path of every host filled in.
        limits: host to the reason why it is not, or only partly, limited; None where it is.
        router_kind: ``namespace``, ``uml``, or None for a lab without a router.
    """

    def __init__(self, lab: Journal, inventory: Inventory, listeners: list[Listener]) -> None:
        self.lab_id = lab.lab_id
        self.run_dir = lab.run_dir
        self.inventory = inventory
        self.limits = {host: entry.limit for host, entry in lab.hosts.items()}
        kernels = {host: entry.kernel for host, entry in lab.hosts.items()}
        router = next((h for h, spec in inventory.hosts.items() if spec.router), None)
        self.router_kind = router and ("uml" if kernels[router] == "uml" else "namespace")
        self._journal = lab
        self._listeners = listeners
        self._up = True

    @classmethod
    def up(
        cls,
        inventory: Inventory,
        *,
        lab_id: str | None = None,
        needs_netem: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> Lab:
        """Make a lab and wait until every sshd answers; leaves nothing behind if it fails.

        ``needs_netem``: what a router of ``kind: auto`` goes by. ``say`` hears, in one line each,
        what else than usual is made.

        Raises UserError for what the caller can mend (not root, no sshd, an inventory that fits
        no lab), HostError where an sshd does not come up.
        """
        lab_id = check_id(lab_id or secrets.token_hex(3))
        tools = _check(inventory)
        wants_uml = _wants_uml(inventory, needs_netem, say)
        listeners: list[Listener] = []
        with ExitStack() as undo:
            with journal.locked():  # until the subnet chosen is seen to be in use
                subnet = free_subnet(network.used_subnets())
                layout = replace(plan_layout(lab_id, inventory, subnet), uml=wants_uml)
                tree = cgroup.find_tree()
                lab = _first_entry(layout, inventory, tree)
                journal.create(lab)
                undo.callback(_take_down, lab_id, listeners)
                lab = _make(lab, layout, inventory, tree)
            lab = _start(lab, layout, tools, listeners)
            undo.pop_all()
        return cls(lab, _filled(inventory, layout, lab.run_dir), listeners)

    def limit(self, host: str, pids: Iterable[int]) -> str | None:
        """Move processes of the host under its CPU limit, children to come included.

        Returns None, or in one line why they are not, or only partly, limited. Raises HostError
        for a process that is gone or is not the host's.
        """
        entry = self._journal.hosts[host]
        if entry.kernel == "uml":
            return self.limits[host]  # its processes are its own kernel's
        own = processes.namespace_id(journal.NETNS_DIR / entry.namespace)
        for pid in pids:
            if processes.namespace_id(Path(f"/proc/{pid}/ns/net")) != own:
                raise HostError(host, f"process {pid} is gone or not of this host: not limited")
            try:
                cgroup.move(tuple(map(Path, entry.cgroups)), pid)
            except OSError as error:
                return f"process {pid}: no limit, {error}"
        return self.limits[host]

    def down(self) -> None:
        """Remove the lab and everything in it; does nothing the second time."""
        if self._up:
            _take_down(self.lab_id, self._listeners)
            self._up = False

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()


def status() -> list[dict[str, Any]]:
    """Every lab that can be read, as JSON-able facts: hosts, addresses, listeners, limits."""
    return [_describe(lab) for lab in journal.read_all()[0]]


def unreadable() -> list[str]:
    """Labs whose journals cannot be read, with why and the remedy, a line each."""
    return journal.read_all()[1]


def _describe(lab: Journal) -> dict[str, Any]:
    return {
        "lab_id": lab.lab_id,
        "run_dir": str(lab.run_dir),
        "subnet": lab.subnet,
        "hosts": {
            host: {
                "namespace": entry.namespace,
                "address": entry.address,
                "port": entry.port,
                "sshd_pid": entry.sshd[0] if entry.sshd else None,
                "sshd_alive": bool(
                    entry.sshd and processes.start_ticks(entry.sshd[0]) == entry.sshd[1]
                ),
                "limit": entry.limit,
                "kernel": entry.kernel,
            }
            for host, entry in lab.hosts.items()
        },
    }


def _check(inventory: Inventory) -> Tools:
    if inventory.lab != "local":
        raise UserError("lab: the inventory is of real hosts; a virtual lab needs 'lab: local'")
    if os.geteuid() != 0:
        raise UserError("lab: namespaces need root; run the same command with sudo")
    plan_layout("check", inventory, IPv4Network("10.0.0.0/24"))
    return sshd.find_tools()


def _wants_uml(inventory: Inventory, needs_netem: bool, say: Callable[[str], None]) -> bool:
    """Whether the router gets a kernel of its own; that kernel is there then."""
    if not uml.wanted(inventory, needs_netem):
        return False
    uml.require(say)
    asked = any(host.router and host.router.kind == "uml" for host in inventory.hosts.values())
    say(
        "lab: the router is a user-mode Linux guest, "
        + ("as the inventory asks" if asked else "since this kernel has no netem")
    )
    return True


def _first_entry(layout: Layout, inventory: Inventory, tree: cgroup.Tree) -> Journal:
    """The journal as it stands before anything is made: all that may come to exist."""
    entries = {}
    limited = False
    for seat in layout.seats:
        host = inventory.hosts[seat.host]
        needs = host.cpus is not None or host.cpuset is not None
        groups = tuple(map(str, tree.groups(seat.namespace))) if needs else ()
        limited |= needs
        address = str(seat.management.address.ip)
        entries[seat.host] = Entry(
            seat.namespace,
            seat.outside_link,
            address,
            SSH_PORT,
            groups,
            kernel="uml" if layout.uml and seat.host in layout.routers else "host",
        )
    # What another lab switched on, the last lab to go switches off.
    others = {c for lab in journal.read_all()[0] for c in lab.controllers}
    controllers = others | set(tree.switched_off() if limited else ())
    return Journal(layout.lab_id, str(layout.subnet), entries, tuple(sorted(controllers)))


def _make(lab: Journal, layout: Layout, inventory: Inventory, tree: cgroup.Tree) -> Journal:
    network.build(layout)
    cgroup.switch(tree, "+", lab.controllers)
    entries = {}
    for name, entry in lab.hosts.items():
        host = inventory.hosts[name]
        limit = cgroup.make(tree, entry.namespace, host.cpus, host.cpuset)
        if entry.kernel == "uml" and (host.cpus or host.cpuset):
            limit = "no limit: the router has a kernel of its own"
        entries[name] = replace(entry, limit=limit)
    return replace(lab, hosts=entries)


def _start(lab: Journal, layout: Layout, tools: Tools, listeners: list[Listener]) -> Journal:
    guests = {host: uml.SSE_ONLY for host, entry in lab.hosts.items() if entry.kernel == "uml"}
    sshd.make_files(tools, lab.run_dir, layout.seats, guests)
    entries = {}
    for seat in layout.seats:
        if lab.hosts[seat.host].kernel == "uml":
            listeners.append(uml.start(tools, layout, seat, lab.run_dir))
        else:
            listeners.append(sshd.start(tools, lab.run_dir, seat))
        pid = listeners[-1].process.pid
        started = processes.start_ticks(pid)
        known = None if started is None else (pid, started)  # None: it has ended already
        entries[seat.host] = replace(lab.hosts[seat.host], sshd=known)
    lab = replace(lab, hosts=entries)
    journal.update(lab)
    for listener in listeners:
        sshd.wait_ready(listener)
    network.prove(layout)
    return lab


def _take_down(lab_id: str, listeners: list[Listener]) -> None:
    with suppress(UserError):  # somebody else was first: there is no such lab any more
        down(lab_id)
    for listener in listeners:
        listener.process.wait()


def _filled(inventory: Inventory, layout: Layout, run_dir: Path) -> Inventory:
    """The inventory as if its hosts were real: all that is needed to reach and use them."""
    hosts: dict[str, Host] = {}
    for seat in layout.seats:
        host = inventory.hosts[seat.host]
        place: dict[str, Any] = {
            "address": str(seat.management.address.ip),
            "port": SSH_PORT,
            "user": "root",
            "key": run_dir / "client_key",
            "known_hosts": run_dir / "known_hosts",
        }
        if "python" not in host.model_fields_set:
            place["python"] = sys.executable
        if seat.host in layout.routers:
            kind: Literal["namespace", "uml"] = "uml" if layout.uml else "namespace"
            place["router"] = RouterPath(
                kind=kind,
                to_device=TO_DEVICE,
                to_server=TO_SERVER,
                devices=layout.routers[seat.host] if len(layout.routers) > 1 else (),
            )
        else:
            port = host.data.port if host.data else 0
            address = layout.data(seat.host)
            place["data"] = DataPath(interface=DATA_LINK, address=address, port=port)
        hosts[seat.host] = host.model_copy(update=place)
    return inventory.model_copy(update={"hosts": hosts})
