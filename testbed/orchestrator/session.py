"""The hosts of a campaign, ready to run: lab, connections, deployed code, live roles."""

from __future__ import annotations

import getpass
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from testbed.config import Experiment, Inventory
from testbed.hosts.connection import Connection, connect_all, each
from testbed.hosts.deploy import deploy, send_artefact
from testbed.hosts.preflight import preflight, require
from testbed.hosts.role import RoleProcess
from testbed.lab import Lab, uml
from testbed.model.cache import Prepared
from testbed.orchestrator.host_models import HostModels
from testbed.orchestrator.inputs import PICTURES
from testbed.orchestrator.link_plan import needs_netem
from testbed.orchestrator.neighbours import Usual
from testbed.orchestrator.plan import Plan
from testbed.orchestrator.probing import Probers
from testbed.orchestrator.roles import device_roles, first_behind, host_of, kind_of
from testbed.orchestrator.shaping import Shaping, place_of
from testbed.orchestrator.verify_link import LinkCheck, asked_of, compensated
from testbed.orchestrator.worker_setup import refuse_missing_codec, setup_message
from testbed.records import sha256_file

# Loading and cutting a large model on a slow device: minutes at most.
SETUP_TIMEOUT_S = 300.0
# Beyond a run's own length: to begin, without the warm-up's queries; the last query's time-out.
START_TIMEOUT_S, STOP_TIMEOUT_S = 120.0, 30.0

OnRecord = Callable[[str, str, dict[str, Any]], None]
OnStage = Callable[[str], None]


def _who() -> str:
    return f"{getpass.getuser()}@{platform.node()}"


class Session(AbstractContextManager["Session"]):
    """Opens everything on one stack; leaving the context closes it in reverse, whatever happened.

    Roles live for the whole campaign. Records of every role go to :attr:`on_record`, which the
    run in progress sets.
    """

    def __init__(
        self,
        experiment: Experiment,
        inventory: Inventory,
        plan: Plan,
        prepared: Prepared | None,
        folder: Path,
        on_stage: OnStage,
    ) -> None:
        self.experiment = experiment
        self.inventory = inventory
        self.plan = plan
        self.prepared = prepared
        self.models = HostModels(prepared)
        self.folder = folder
        self.on_record: OnRecord = lambda role, file, record: None
        self._stage = on_stage
        self._stack = ExitStack()
        self.lab: Lab | None = None
        self.connections: dict[str, Connection] = {}
        self.roles: dict[str, RoleProcess] = {}
        self._started: dict[str, RoleProcess] = {}
        self.ready: dict[str, dict[str, Any]] = {}
        self.limits: dict[str, str | None] = {}
        self.link_checks: dict[str, LinkCheck] = {}  # by link role
        self.usual = Usual()

    def __enter__(self) -> Session:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _open(self) -> None:
        if self.inventory.lab == "local":
            self._open_lab()
        self._stage("hosts: connect and check")
        self.connections = self._stack.enter_context(connect_all(self.inventory.hosts))
        require(preflight(self.connections, needs_torch=self._needs_torch))
        self._stage("hosts: deploy and start roles")
        deployed = self._deploy()
        if self.models.travels_as_weights:
            self._stage("model: built on each host by its own library")
            hosts = {self.connections[self.host_of(name)] for name in self._workers}
            self.models.build(hosts, deployed, self.folder / "logs")
        self._start_roles(deployed)
        self._stage(f"link: shaped at {self.shaping}")
        for name in self._workers:
            if name in self.roles:
                refuse_missing_codec(self.experiment, self.host_of(name), self.roles[name].hello)
        self._measure_unshaped()
        self._stage("roles: set up link, model, split equals whole on each host")
        self._set_up_roles()

    def _open_lab(self) -> None:
        self._stage("lab: namespaces and sshd")
        self.lab = self._stack.enter_context(self._lab_up())
        self.inventory = self.lab.inventory
        self.limits = dict(self.lab.limits)

    def _lab_up(self) -> Lab:
        needs = needs_netem(self.experiment)
        return Lab.up(self.inventory, needs_netem=needs, say=self._stage)

    @property
    def shaping(self) -> Shaping:
        """Where the link is shaped, which the link roles' hosts have a say in."""
        hellos = [role.hello for name, role in self.roles.items() if name.startswith("link-")]
        place = place_of(self.inventory, [hello["ingress"] for hello in hellos])
        return Shaping(self.inventory, place)

    @property
    def link_roles(self) -> dict[str, tuple[str, ...]]:
        """Link role names to the directions each shapes."""
        return self.shaping.roles

    @property
    def directions(self) -> list[str]:
        """Every direction of every link."""
        return [side for sides in self.link_roles.values() for side in sides]

    @property
    def device_roles(self) -> dict[str, str]:
        """Device role names to their hosts."""
        return device_roles(self.inventory)

    def host_of(self, role: str) -> str:
        """The host that runs a role."""
        return host_of(self.inventory, role)

    @property
    def _workers(self) -> list[str]:
        return [*self.device_roles, "server"]

    @property
    def needs_load(self) -> bool:
        """Whether any condition of the experiment loads the server."""
        return any(load.kind != "none" for load in self.experiment.loads.values())

    @property
    def _role_names(self) -> list[str]:
        return [*self._workers, *self.link_roles, *(["load"] if self.needs_load else [])]

    @property
    def _needs_torch(self) -> bool:
        """Whether the hosts' roles run a model."""
        return True

    def _measure_unshaped(self) -> None:
        self._stage("link: base delay and capacity, before it is shaped")
        asked = asked_of(self.experiment, self.plan.schedules, self.plan.schedules)
        by_guest = any(self.roles[name].hello["user_mode"] for name in self.link_roles)
        server = self.connections[self.host_of("server")]
        # At a router its first device; without one the link is that of the only device.
        behind = {f"link{s}": device for s, device in first_behind(self.inventory).items()}
        for nth, (name, device) in enumerate(behind.items()):
            ends = {"device": self.connections[device], "server": server}
            probers = self._stack.enter_context(Probers(ends, self.folder / "logs", nth))
            self.link_checks[name] = LinkCheck(probers, uml.CARRIES_BPS if by_guest else None)
            self.link_checks[name].unshaped({side: a.max_bps for side, a in asked.items()})

    @property
    def link_faults(self) -> list[str]:
        """What is not as asked of any link, each of several by its router's name."""
        several = len(self.link_checks) > 1
        return [
            f"{self.host_of(name)}: {fault}" if several else fault
            for name, check in self.link_checks.items()
            for fault in check.faults
        ]

    def as_set(self, role: str) -> Experiment:
        """The experiment with the delays that a link role sets: less the path's own, if asked."""
        check = self.link_checks.get(role) or self.link_checks.get("link")
        return compensated(self.experiment, check.base_rtt_ns if check is not None else 0)

    def patience_s(self, queries: int = 0) -> float:
        """How long a role may take to begin: each split once, or more ``queries``, each in time."""
        queries = max(queries, len(self.plan.candidates))
        return START_TIMEOUT_S + queries * self.experiment.run.timeout / 1e9

    def _deploy(self) -> dict[str, str]:
        """The package's folder on each host that runs a role."""
        kinds: dict[str, set[str]] = {}
        for name in self._role_names:
            kinds.setdefault(self.host_of(name), set()).add(kind_of(name))
        work = {h: partial(deploy, self.connections[h], roles) for h, roles in kinds.items()}
        return each("deploy", work)

    def _start_roles(self, deployed: dict[str, str]) -> None:
        names = self._role_names
        work = {n: partial(self._start_role, n, deployed[self.host_of(n)]) for n in names}
        self._stack.callback(self._close_roles)
        self.roles = each("start roles", work)

    def _start_role(self, name: str, deployed: str) -> RoleProcess:
        host = self.host_of(name)
        kind = kind_of(name)
        role = RoleProcess.start(
            self.connections[host],
            kind,
            deployed,
            log=self.folder / "logs" / f"{name}.log",
            on_record=lambda kind, file, record: self.on_record(name, file, record),
            sudo=self.inventory.hosts[host].sudo and kind == "link",
        )
        self._started[name] = role
        return role

    def _close_roles(self) -> None:
        """End all at once, also those whose fellows did not start: torch takes seconds to end."""
        each("close roles", {name: role.close for name, role in self._started.items()})

    def _set_up_roles(self) -> None:
        work: dict[str, Callable[[], dict[str, Any]]] = {}
        for name in self.roles:
            message = self._link_setup(name) if name.startswith("link") else self._setup(name)
            work[name] = partial(self._set_up, name, message)
        self.ready = each("set up roles", work)
        if self.lab is not None:
            for name, role in self.roles.items():
                pids = [role.hello["pid"], *self.ready[name].get("pids", [])]
                reason = self.lab.limit(self.host_of(name), pids)
                self.limits[self.host_of(name)] = reason

    def set_batch(self, batch: int) -> None:
        """Set device and server up again, for queries of another batch size."""
        self.experiment = self.experiment.model_copy(update={"batch": batch})
        work = {n: partial(self._set_up, n, self._setup(n)) for n in self._workers}
        self.ready |= each("set up roles", work)

    def _set_up(self, name: str, message: dict[str, Any]) -> dict[str, Any]:
        connection = self.connections[self.host_of(name)]
        if "archive_sha256" in message:
            message = {**message, "archive": self.models.bring(connection)}
        if (pictures := message.get("pictures")) is not None:
            sent = send_artefact(connection, self.folder / PICTURES, pictures["sha256"])
            message = {**message, "pictures": {**pictures, "path": sent}}
        message = {"type": "setup", **message}
        return self.roles[name].request(message, "ready", timeout_s=SETUP_TIMEOUT_S)

    def _setup(self, name: str) -> dict[str, Any]:
        model = self.models.on(self.host_of(name))
        message = setup_message(name, self.experiment, self.inventory, model, self.plan.candidates)
        if name != "load" and (pictures := self.folder / PICTURES).is_file():
            message["pictures"] = {"sha256": sha256_file(pictures)}
        return message

    def _link_setup(self, name: str) -> dict[str, Any]:
        directions = self.link_directions(name, next(iter(self.experiment.links)))
        return {"directions": directions, "owner": self._owner}

    def link_directions(self, name: str, link: str) -> dict[str, dict[str, Any]]:
        """What a link role is told of the directions that it shapes, under one of the links."""
        if link not in self.experiment.links:  # the profile's own: a constant rate over the first
            link = next(iter(self.experiment.links))
        return self.shaping.directions(name, self.as_set(name), link, self.plan.schedules[link])

    @property
    def _owner(self) -> str:
        """What a second campaign is told of this one."""
        return f"campaign {self.folder.parent.name}/{self.folder.name} of {_who()}"

    def server_endpoint(self, token: str) -> dict[str, Any]:
        """Where a device finds the server's data socket, and the run's token."""
        data = self.inventory.hosts[self.host_of("server")].data
        assert data is not None
        return {"address": str(data.address), "port": self.ready["server"]["port"], "token": token}

    def restore_link(self) -> dict[str, Any]:
        """Put every shaped interface back as it was found; what is there then, by link role."""
        names = {n: partial(self._restore, n) for n in self.link_roles}
        return each("restore link", names)

    def _restore(self, name: str) -> Any:
        message = {"type": "restore"}
        return self.roles[name].request(message, "restored", timeout_s=SETUP_TIMEOUT_S)["after"]
