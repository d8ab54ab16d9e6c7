"""``testbed lab``: make, show, enter and remove virtual labs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from testbed.cli.common import LOCAL_INVENTORY, Output, add_verb
from testbed.errors import UserError


def up(args: argparse.Namespace, out: Output) -> int:
    """Make a virtual lab that stays until ``lab down``."""
    from testbed.config import load_inventory
    from testbed.lab import Lab

    inventory = load_inventory(args.inventory)
    if inventory.lab is None:
        raise UserError(f"{args.inventory}: lab: expected local, got nothing; these hosts are real")
    lab = Lab.up(inventory)
    document = {"lab_id": lab.lab_id, "inventory": lab.inventory.model_dump(mode="json")}
    out.document(document, lambda: print(f"lab {lab.lab_id} is up; end it: testbed lab down"))
    return 0


def down(args: argparse.Namespace, out: Output) -> int:
    """Remove a virtual lab, whatever became of the process that made it."""
    from testbed import lab

    labs = [found["lab_id"] for found in lab.status()]
    if not args.all and args.lab is None and len(labs) > 1:
        raise UserError(f"several labs are up: {', '.join(labs)}; name one, or say --all")
    if args.all:
        removed = lab.down_all()
    else:
        removed = [item for name in ([args.lab] if args.lab else labs) for item in lab.down(name)]
    faults = [] if args.lab else lab.unreadable()
    out.document(
        {"removed": removed, "unreadable": faults},
        lambda: print("\n".join(f"removed {item}" for item in removed) or "nothing to remove"),
    )
    return _tell(faults)


def status(args: argparse.Namespace, out: Output) -> int:
    """Tell which virtual labs are up."""
    from testbed import lab

    found = lab.status()

    def words() -> None:
        if not found:
            print("no lab is up")
        for entry in found:
            print(f"lab {entry['lab_id']}  {entry['subnet']}  {entry['run_dir']}")
            for name, host in entry["hosts"].items():
                sshd = "sshd answers" if host["sshd_alive"] else "sshd is gone"
                at = f"{host['address']}:{host['port']}"
                print(f"  {name:10} {at:24} {sshd}  {host['limit'] or ''}".rstrip())

    faults = lab.unreadable()
    out.document({"labs": found, "unreadable": faults}, words)
    return _tell(faults)


def _tell(faults: list[str]) -> int:
    """Name the labs that could not be read, to people; the exit status."""
    for fault in faults:
        print(f"testbed: {fault}", file=sys.stderr)
    return 1 if faults else 0


def shell(args: argparse.Namespace, out: Output) -> int:
    """Open a shell in a lab host, or run a command there."""
    from testbed import lab

    if args.json:
        raise UserError("lab shell: --json: what runs inside has its own output; leave it out")
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if command[:1] and command[0].startswith("-"):
        raise UserError(
            f"lab shell: expected a command behind {args.host}, got {command[0]}; options of the "
            "verb come before the host"
        )
    return lab.shell(args.host, args.lab, command or None)


def add_verbs(verbs: Any) -> None:
    """Add ``lab`` and its verbs."""
    lab = verbs.add_parser("lab", help="Make, show, enter and remove virtual labs.")
    kinds = lab.add_subparsers(required=True, metavar="VERB")
    add_verb(kinds, "up", up).add_argument("-i", "--inventory", type=Path, default=LOCAL_INVENTORY)
    verb = add_verb(kinds, "down", down)
    verb.add_argument("lab", nargs="?", help="the lab's id (default: the only one)")
    verb.add_argument("--all", action="store_true", help="every lab on this machine")
    add_verb(kinds, "status", status)
    verb = add_verb(kinds, "shell", shell)
    verb.add_argument("host")
    verb.add_argument("--lab", help="the lab's id (default: the only one)")
    verb.add_argument("command", nargs=argparse.REMAINDER, help="a command in place of a shell")
