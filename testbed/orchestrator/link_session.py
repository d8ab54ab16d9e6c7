"""The link alone, outside a campaign: for any program, for a check, for putting things back."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from testbed import lab
from testbed.config import Experiment, Inventory
from testbed.errors import HostError
from testbed.hosts.connection import Connection, connect_all, each
from testbed.hosts.deploy import deploy
from testbed.hosts.launch import module_command
from testbed.hosts.preflight import shaping_hosts
from testbed.link import recover as local
from testbed.orchestrator.campaign import load_traces
from testbed.orchestrator.plan import Plan, make_schedules, schedule_json
from testbed.orchestrator.roles import link_suffixes
from testbed.orchestrator.session import OnStage, Session

ANSWER_TIMEOUT_S = 30.0
Lines = list[dict[str, Any]]


class LinkSession(Session):
    """The link roles of an inventory's hosts, and no others; in a lab that is up, or a fresh one.

    ``verifies``: measure the path before it is shaped, for :func:`prove_link` later.
    """

    def __init__(
        self,
        experiment: Experiment,
        inventory: Inventory,
        folder: Path,
        on_stage: OnStage,
        verifies: bool = False,
        lab_id: str | None = None,
    ) -> None:
        plan = Plan(
            (), (), make_schedules(experiment, load_traces(experiment), link_suffixes(inventory))
        )
        super().__init__(experiment, inventory, plan, None, folder, on_stage)
        self._verifies = verifies
        self._lab_id = lab_id

    def __enter__(self) -> LinkSession:
        super().__enter__()
        return self

    def _open_lab(self) -> None:
        if (lab_id := lab.the_lab(self._lab_id)) is not None:
            self.inventory = lab.attach(self.inventory, lab_id)
            self._stage(f"lab: {lab_id}, which is up")
        else:
            super()._open_lab()

    @property
    def _role_names(self) -> list[str]:
        return list(self.link_roles)

    @property
    def _needs_torch(self) -> bool:
        return False

    @property
    def _owner(self) -> str:
        return super()._owner.replace("campaign", "testbed link in", 1)

    def _measure_unshaped(self) -> None:
        if self._verifies:
            super()._measure_unshaped()

    def go(self) -> dict[str, Any]:
        """Start the schedules in every direction; what each link role says of its start.

        Records come to ``on_record``.
        """
        schedules = next(iter(self.plan.schedules.values()))
        for name, sides in self.link_roles.items():
            wanted = {side: schedule_json(schedules[side]) for side in sides}
            message = {"type": "start", "run_id": "link", "schedules": wanted}
            self.roles[name].request(message, "started", ANSWER_TIMEOUT_S)
        return {
            name: self.roles[name].request({"type": "go"}, "went", ANSWER_TIMEOUT_S)
            for name in self.link_roles
        }

    def stop(self) -> dict[str, Any]:
        """End the schedules; what each link role says of them."""
        for name in self.link_roles:
            self.roles[name].stop()
        return {n: self.roles[n].wait("done", ANSWER_TIMEOUT_S) for n in self.link_roles}


def recover(inventory: Inventory, action: str) -> dict[str, Lines]:
    """``restore``, ``clear`` or ``show`` on every host that shapes; outcomes by host.

    Of the virtual lab: every lab that is up, and what labs that are gone left in the journals.
    """
    if inventory.lab is None:
        return _on_hosts(inventory, action)
    found: dict[str, Lines] = {}
    for entry in lab.status():
        attached = lab.attach(inventory, entry["lab_id"])
        told = _on_hosts(attached, action)
        found |= {f"{entry['lab_id']}.{host}": lines for host, lines in told.items()}
    if action != "show" and (lines := local.restore()):
        found["this machine"] = lines
    return found


def _on_hosts(inventory: Inventory, action: str) -> dict[str, Lines]:
    hosts = {name: inventory.hosts[name] for name in shaping_hosts(inventory.hosts)}
    with connect_all(hosts) as connections:
        return each(action, {n: partial(_on_host, c, action) for n, c in connections.items()})


def _on_host(connection: Connection, action: str) -> Lines:
    deployed = deploy(connection, {"link"})
    done = connection.run(module_command(connection.host, deployed, "testbed.link.recover", action))
    if done.status != 0:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        raise HostError(connection.name, f"{action}: {told[-1] if told else done.status}")
    lines: Lines = json.loads(done.stdout.decode().strip().splitlines()[-1])
    return lines
