"""Which role runs on which host, by the inventory. Pure."""

from __future__ import annotations

from testbed.config import Inventory
from testbed.config.host import RoleName
from testbed.errors import UserError


def device_roles(inventory: Inventory) -> dict[str, str]:
    """Device role names to their hosts: ``device``, and ``device-<host>`` for each further."""
    first, *others = inventory.hosts_of("device")
    return {"device": first, **{f"device-{host}": host for host in others}}


def link_suffixes(inventory: Inventory) -> dict[str, str]:
    """Each router to what its role and directions are named by: nothing, ``-<host>`` if further."""
    suffixes: dict[str, str] = {}
    for router in inventory.routers:
        suffixes[router] = f"-{router}" if suffixes else ""
    return suffixes


def suffix_behind(inventory: Inventory, device: str) -> str:
    """What the directions of a device's own link are named by: its router's suffix."""
    suffixes = link_suffixes(inventory)
    behind = (
        suffixes[router] for router, devices in inventory.routers.items() if device in devices
    )
    return next(behind, "")


def first_behind(inventory: Inventory) -> dict[str, str]:
    """The first device behind each router, by the router's suffix; without one the device."""
    suffixes = link_suffixes(inventory)
    found = {suffixes[router]: devices[0] for router, devices in inventory.routers.items()}
    return found or {"": inventory.hosts_of("device")[0]}


def host_of(inventory: Inventory, role: str) -> str:
    """The host that runs a role (``link-device`` runs on the device's host)."""
    if role in (devices := device_roles(inventory)):
        return devices[role]
    for router, suffix in link_suffixes(inventory).items():
        if role == f"link{suffix}":
            return router
    wanted = role.removeprefix("link-")
    host = inventory.host_of(wanted)  # type: ignore[arg-type]
    if host is None and wanted == "load":
        host = inventory.host_of("server")
    if host is None:
        raise UserError(f"inventory: no host has the role {wanted}; add it to a host's roles")
    return host


def kind_of(role: str) -> RoleName:
    """What the process of a role is: ``link`` for ``link-device``."""
    return role.partition("-")[0]  # type: ignore[return-value]
