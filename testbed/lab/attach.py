"""Into a lab that is up: its inventory, filled in for whoever did not make it."""

from __future__ import annotations

from ipaddress import IPv4Network

from testbed.config import Inventory
from testbed.errors import UserError
from testbed.lab import journal
from testbed.lab.lab import _filled
from testbed.lab.layout import plan_layout


def the_lab(lab_id: str | None = None) -> str | None:
    """The lab asked for, or the only one that is up, or None where none is.

    Raises UserError where several are up and none is named.
    """
    labs = journal.lab_ids()
    if lab_id is None and len(labs) > 1:
        raise UserError(f"several labs are up: {', '.join(labs)}; name one with --lab")
    return lab_id or next(iter(labs), None)


def attach(inventory: Inventory, lab_id: str) -> Inventory:
    """The inventory as ``Lab.up`` filled it in; raises UserError where the lab has other hosts."""
    lab = journal.read(lab_id)
    if set(lab.hosts) != set(inventory.hosts):
        raise UserError(
            f"lab {lab_id}: expected the inventory's hosts {', '.join(inventory.hosts)}, it has "
            f"{', '.join(lab.hosts)}; give the inventory that the lab was made of"
        )
    return _filled(inventory, plan_layout(lab_id, inventory, IPv4Network(lab.subnet)), lab.run_dir)
