"""The hosts of a campaign, ready to run: lab, connections, deployed code, live roles."""

from __future__ import annotations

import getpass
import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from testbed.config import Experiment, Host, Inventory
from testbed.config.inventory import RoleName
from testbed.encodings import missing, parse_features, parse_input
from testbed.errors import UserError
from testbed.hosts.clock import ClockOffset, measure_offset
from testbed.hosts.connection import Connection, connect_all, each
from testbed.hosts.deploy import deploy, send_artefact
from testbed.hosts.environment import read_environment
from testbed.hosts.preflight import preflight, require
from testbed.hosts.role import RoleProcess
from testbed.lab import Lab
from testbed.model.cache import Prepared
from testbed.orchestrator.inputs import PICTURES
from testbed.orchestrator.link_plan import direction_message, needs_netem, peak_bps
from testbed.orchestrator.plan import DIRECTIONS, Plan, schedule_json
from testbed.orchestrator.probing import Probers
from testbed.orchestrator.verify_link import LinkCheck, alike, asked_of, compensated
from testbed.records import sha256_file
from testbed.traces.trace import Schedule

# Loading and cutting a large model on a slow device: minutes at most.
_SETUP_TIMEOUT_S = 300.0
# Beyond a run's own length: warm-up over the slowest rate, the last query's time-out.
START_TIMEOUT_S, STOP_TIMEOUT_S = 120.0, 30.0

_PLACES = {
    "router": "the router",
    "ingress": "the receivers' ingress",
    "egress": "the senders' egress",
}

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
        self.folder = folder
        self.on_record: OnRecord = lambda role, file, record: None
        self._stage = on_stage
        self._stack = ExitStack()
        self.lab: Lab | None = None
        self.connections: dict[str, Connection] = {}
        self.roles: dict[str, RoleProcess] = {}
        self.ready: dict[str, dict[str, Any]] = {}
        self.limits: dict[str, str | None] = {}
        self.link_check: LinkCheck | None = None

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
        self._start_roles()
        self._stage(f"link: shaped at {_PLACES[self._shaping]}")
        self._refuse_missing_codecs()
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
    def link_roles(self) -> dict[str, tuple[str, ...]]:
        """Link role names to the directions each shapes: the router's, or one a host."""
        if self._shaping == "router":
            return {"link": DIRECTIONS}
        if self._shaping == "ingress":
            return {"link-device": ("downlink",), "link-server": ("uplink",)}
        return {"link-device": ("uplink",), "link-server": ("downlink",)}

    @property
    def _shaping(self) -> str:
        """Where the link is shaped; ``auto`` is the best that the hosts can.

        At its own egress a sender's TCP holds back what would queue (TCP Small Queues): where
        packets arrive the queue is seen as a network's.
        """
        asked = self.inventory.shaping
        if asked != "auto":
            return asked
        if self.inventory.host_of("link"):
            return "router"
        hellos = [role.hello for name, role in self.roles.items() if name.startswith("link-")]
        return "ingress" if hellos and all(hello["ingress"] for hello in hellos) else "egress"

    def host_of(self, role: str) -> str:
        """The host that runs a role (``link-device`` runs on the device's host)."""
        if role in self.device_roles:
            return self.device_roles[role]
        wanted = role.removeprefix("link-")
        host = self.inventory.host_of(wanted)  # type: ignore[arg-type]
        if host is None and wanted == "load":
            host = self.inventory.host_of("server")
        if host is None:
            raise UserError(f"inventory: no host has the role {wanted}; add it to a host's roles")
        return host

    @property
    def device_roles(self) -> dict[str, str]:
        """Device role names to their hosts: ``device``, and ``device-<host>`` for each further."""
        first, *others = self.inventory.hosts_of("device")
        return {"device": first, **{f"device-{host}": host for host in others}}

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
        ends = {side: self.connections[self.host_of(side)] for side in ("device", "server")}
        probers = self._stack.enter_context(Probers(ends, self.folder / "logs"))
        asked = asked_of(self.experiment, self.plan.schedules, self.plan.schedules)
        self.link_check = LinkCheck(probers)
        self.link_check.unshaped({side: a.max_bps for side, a in asked.items()})

    def verify_link(self) -> LinkCheck:
        """Measure whether the shaped link does what the experiment asks; the outcome."""
        assert self.link_check is not None, "open"
        for names in alike(self.experiment):
            asked = asked_of(self._as_set, self.plan.schedules, names)
            self.link_check.shaped(", ".join(names), asked, partial(self._set_rates, names[0]))
        return self.link_check

    @property
    def _as_set(self) -> Experiment:
        """The experiment with the delays that are set: less the path's own, where asked for."""
        base_rtt_ns = self.link_check.base_rtt_ns if self.link_check is not None else 0
        return compensated(self.experiment, base_rtt_ns)

    def _set_rates(self, link: str, rates: Mapping[str, int]) -> None:
        """Both directions to constant rates, all else as one of the links has it."""

        def start(name: str) -> None:
            wanted = {
                side: schedule_json(Schedule.constant(rates[side], end="hold"))
                for side in self.link_roles[name]
            }
            directions = self.link_directions(name, link)
            message = {"run_id": "verify", "schedules": wanted, "directions": directions}
            self.roles[name].request(
                {"type": "start", **message}, "started", timeout_s=_SETUP_TIMEOUT_S
            )

        each("set the link's rates", {name: partial(start, name) for name in self.link_roles})

    def _start_roles(self) -> None:
        names = self._role_names
        kinds = {name: self._kind(name) for name in names}
        on_host = {
            host: {kinds[name] for name in names if self.host_of(name) == host}
            for host in {self.host_of(name) for name in names}
        }
        deployed = each(
            "deploy",
            {h: partial(deploy, self.connections[h], roles) for h, roles in on_host.items()},
        )
        work = {n: partial(self._start_role, n, deployed[self.host_of(n)]) for n in names}
        self.roles = each("start roles", work)

    def _refuse_missing_codecs(self) -> None:
        encoding = self.experiment.encoding
        wanted = [parse_input(encoding.input), parse_features(encoding.features)]
        for name in self._workers:
            if name in self.roles:
                lacking = missing(wanted, self.roles[name].hello["codecs"])
                for used, package in lacking.items():
                    raise UserError(
                        f"encoding: {used} needs the package {package}, which {self.host_of(name)} "
                        f"does not have; install it there (pip install {package}) or choose "
                        "another encoding"
                    )

    @staticmethod
    def _kind(name: str) -> RoleName:
        return name.partition("-")[0]  # type: ignore[return-value]

    def _start_role(self, name: str, deployed: str) -> RoleProcess:
        host = self.host_of(name)
        kind = self._kind(name)
        role = RoleProcess.start(
            self.connections[host],
            kind,
            deployed,
            log=self.folder / "logs" / f"{name}.log",
            on_record=lambda role, file, record: self.on_record(role, file, record),
            sudo=self.inventory.hosts[host].sudo and kind == "link",
        )
        self._stack.callback(role.close)
        return role

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
        if "archive_sha256" in message:
            assert self.prepared is not None, "workers have a model"
            path = send_artefact(
                self.connections[self.host_of(name)],
                self.prepared.archive,
                self.prepared.archive_sha256,
            )
            message = {**message, "archive": path}
        if (pictures := message.get("pictures")) is not None:
            connection = self.connections[self.host_of(name)]
            sent = send_artefact(connection, self.folder / PICTURES, pictures["sha256"])
            message = {**message, "pictures": {**pictures, "path": sent}}
        message = {"type": "setup", **message}
        return self.roles[name].request(message, "ready", timeout_s=_SETUP_TIMEOUT_S)

    def _setup(self, name: str) -> dict[str, Any]:
        host = self.inventory.hosts[self.host_of(name)]
        assert self.prepared is not None, "workers have a model"
        message: dict[str, Any] = {
            "archive_sha256": self.prepared.archive_sha256,
            "table": self.prepared.table.to_json(),
            "batch": self.experiment.batch,
            "threads": host.threads,
            "accelerator": host.accelerator,
            "engine": self.experiment.engine.model_dump(),
        }
        if name == "load":
            return {**message, "encoding": self.experiment.encoding.model_dump()}
        message["candidates"] = list(self.plan.candidates)
        message["encoding"] = self.experiment.encoding.model_dump()
        if (pictures := self.folder / PICTURES).is_file():
            message["pictures"] = {"sha256": sha256_file(pictures)}
        if name == "server":
            assert host.data is not None
            return {**message, "data": {"address": str(host.data.address), "port": host.data.port}}
        # Every device has pictures of its own.
        seed = self.experiment.seed + list(self.device_roles).index(name)
        return {**message, "input_seed": seed, "inputs": 8}

    def _link_setup(self, name: str) -> dict[str, Any]:
        directions = self.link_directions(name, next(iter(self.experiment.links)))
        return {"directions": directions, "owner": self._owner}

    def link_directions(self, name: str, link: str) -> dict[str, dict[str, Any]]:
        """What a link role is told of the directions that it shapes, under one of the links."""
        if link not in self.experiment.links:  # the profile's own: a constant rate over the first
            link = next(iter(self.experiment.links))
        schedules = self.plan.schedules[link]
        place = {"ingress": self._shaping == "ingress", "flow": self._flow(name)}
        return {
            side: place
            | direction_message(
                self._as_set.links[link],
                side,
                schedules[side],
                peak_bps(self.experiment, schedules, side),
                self._interface(name, side),
            )
            for side in self.link_roles[name]
        }

    def _flow(self, name: str) -> dict[str, Any] | None:
        """The flow that a link role shapes, where its interface carries others too."""
        hosts = self.inventory.hosts
        own, server = hosts[self.host_of(name)].data, hosts[self.host_of("server")].data
        device = hosts[self.host_of("device")].data
        if name == "link" or own is None or not own.shared or server is None or device is None:
            return None
        at_device = name == "link-device"
        peer = server if at_device else device
        return {
            "peer": str(peer.address),
            "ports": [server.port],
            "peer_is_server": at_device,
        }

    @property
    def _owner(self) -> str:
        """What a second campaign is told of this one."""
        return f"campaign {self.folder.parent.name}/{self.folder.name} of {_who()}"

    def _interface(self, name: str, side: str) -> str:
        host: Host = self.inventory.hosts[self.host_of(name)]
        if name != "link":
            assert host.data is not None
            return host.data.interface
        if host.router is None or not host.router.to_server:
            raise UserError(
                f"hosts.{self.host_of(name)}.router: missing; give to_device and to_server"
            )
        return host.router.to_server if side == "uplink" else host.router.to_device

    def server_endpoint(self, token: str) -> dict[str, Any]:
        """Where a device finds the server's data socket, and the run's token."""
        data = self.inventory.hosts[self.host_of("server")].data
        assert data is not None
        return {"address": str(data.address), "port": self.ready["server"]["port"], "token": token}

    def clocks(self) -> dict[str, ClockOffset]:
        """Offset and bound of every host to the orchestrator, measured now."""
        roles = {self.host_of(name): role for name, role in self.roles.items()}
        return each("clocks", {host: partial(measure_offset, role) for host, role in roles.items()})

    def environments(self, watch_s: float = 0.0) -> dict[str, dict[str, Any]]:
        """What every host is, and the state it is in now, with its roles' greetings.

        With ``watch_s`` every host is watched for so long, while nothing of ours runs there.
        """
        ask = partial(read_environment, watch_s=watch_s)
        read = each("environment", {h: partial(ask, c) for h, c in self.connections.items()})
        found: dict[str, dict[str, Any]] = {host: asdict(e) for host, e in read.items()}
        for name, role in self.roles.items():
            found[self.host_of(name)].setdefault("roles", {})[name] = role.hello
            told = self.ready.get(name, {}).get("engine")
            if told is not None:
                found[self.host_of(name)]["engine"] = told
        for host, spec in self.inventory.hosts.items():
            found[host]["threads"] = spec.threads
            found[host]["accelerator"] = spec.accelerator
            found[host]["cpu_limit"] = {
                "cpus": spec.cpus,
                "cpuset": spec.cpuset,
                "not_applied": self.limits.get(host),
            }
        for name in self.link_roles:
            found[self.host_of(name)]["shaping"] = self._shaping
        router = self.inventory.host_of("link")
        if self.lab is not None and router is not None:
            found[router]["router_kind"] = self.lab.router_kind
        return found

    def restore_link(self) -> dict[str, Any]:
        """Put every shaped interface back as it was found; what is there then, by link role."""
        names = {n: partial(self._restore, n) for n in self.link_roles}
        return each("restore link", names)

    def _restore(self, name: str) -> Any:
        message = {"type": "restore"}
        return self.roles[name].request(message, "restored", timeout_s=_SETUP_TIMEOUT_S)["after"]
