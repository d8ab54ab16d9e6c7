"""Each host's own build of the model, where its library is what is carried, held to ours."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from testbed.control import Message
from testbed.errors import HostError, UserError
from testbed.hosts.connection import Connection, each
from testbed.hosts.deploy import send_artefact
from testbed.hosts.role import RoleProcess
from testbed.model.cache import Prepared
from testbed.model.table import SplitPoint, SplitTable

# Exporting a large model on a slow device.
_BUILD_TIMEOUT_S = 1800
# How often one who waits for a host looks whether it is to go on waiting.
_LOOK_UP_S = 1


class HostModels:
    """The model as each host runs it: ours, or what its own library makes of our weights.

    ``built`` has the latter, by host, with the versions of what built it. Without a model,
    ``ours`` is None and no host is asked for.
    """

    def __init__(self, ours: Prepared | None) -> None:
        self._ours = ours
        self.built: dict[str, tuple[Prepared, dict[str, str]]] = {}

    @property
    def travels_as_weights(self) -> bool:
        """Whether each host is to build the model itself."""
        return self._ours is not None and self._ours.weights is not None

    def on(self, host: str) -> Prepared:
        """The model that a host runs; the archive's path is one here unless it was built there."""
        if host in self.built:
            return self.built[host][0]
        assert self._ours is not None, "workers have a model"
        return self._ours

    def build(
        self, connections: Iterable[Connection], deployed: Mapping[str, str], logs: Path
    ) -> None:
        """Let every host build it, at once.

        Raises GroupError where one cannot, or cuts the model elsewhere than we do.
        """
        assert self._ours is not None, "there is one to build"
        given_up = threading.Event()
        work = {
            c.name: partial(_build, c, deployed[c.name], self._ours, logs, given_up)
            for c in connections
        }
        self.built = each("build the model", work, give_up=given_up.set)

    def bring(self, connection: Connection) -> str:
        """The archive's path on a host, where it is sent unless it is there; raises HostError."""
        model = self.on(connection.name)
        if connection.name in self.built:
            return str(model.archive)
        return send_artefact(connection, model.archive, model.archive_sha256)


def _build(
    connection: Connection,
    deployed: str,
    ours: Prepared,
    logs: Path,
    given_up: threading.Event,
) -> tuple[Prepared, dict[str, str]]:
    assert ours.weights is not None, "they are what is carried"
    table, (weights, sha256) = ours.table, ours.weights
    message = {
        "type": "build",
        "weights": send_artefact(connection, weights, sha256),
        "model": {
            "name": table.model,
            "resolution": table.resolution,
            "granularity": table.granularity,
        },
    }
    name = f"build-{connection.name}"
    log = logs / f"{name}.log"
    with RoleProcess.start(
        connection, "build", deployed, log=log, on_record=lambda role, file, record: None
    ) as role:
        role.send(message)
        made = _wait_for_built(role, given_up)
    theirs = SplitTable.from_json(made["table"])
    if found := difference(table, theirs):
        tools = " and ".join(f"{name} {release}" for name, release in made["built_by"].items())
        raise UserError(
            f"{connection.name}: model {table.model}: {tools} there make another graph: {found}; "
            "install the orchestrator's releases there, or take carry: archive"
        )
    return Prepared(Path(made["archive"]), made["archive_sha256"], theirs), made["built_by"]


def _wait_for_built(role: RoleProcess, given_up: threading.Event) -> Message:
    """As :meth:`RoleProcess.wait`; raises HostError, too, soon after it is given up."""
    for _ in range(0, _BUILD_TIMEOUT_S, _LOOK_UP_S):
        if given_up.is_set():
            raise HostError(role.host, "build: given up")
        if (made := role.poll("built", _LOOK_UP_S)) is not None:
            return made
    raise HostError(
        role.host,
        f"build: the model is not built within {_BUILD_TIMEOUT_S} s; take carry: archive",
    )


def difference(ours: SplitTable, theirs: SplitTable) -> str:
    """The first place where two split tables would not cut alike; empty where there is none.

    How a release of torch names a graph's nodes is its own affair: each host cuts by its own.
    """
    for expected, got in zip(ours.points, theirs.points, strict=False):
        if (expected.name, expected.shapes) != (got.name, got.shapes):
            return f"split {expected.split}: expected {_told(expected)}, got {_told(got)}"
    return ""  # of as many points, too: both tables end with the logits


def _told(point: SplitPoint) -> str:
    shapes = " and ".join("×".join(map(str, shape)) for shape in point.shapes)
    return f"{point.name} of {shapes}"
