"""What a worker is told at its set-up, and whether its host can do it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from testbed.config import Experiment, Inventory
from testbed.encodings import missing, parse_features, parse_input
from testbed.errors import UserError
from testbed.model.cache import Prepared
from testbed.orchestrator.roles import device_roles, host_of

# Different inputs that a device makes, and takes in turn.
_INPUTS = 8


def setup_message(
    role: str,
    experiment: Experiment,
    inventory: Inventory,
    prepared: Prepared,
    candidates: Collection[str],
) -> dict[str, Any]:
    """A worker's ``setup`` but for where its artefacts lie on its host; ``prepared`` is its own."""
    host = inventory.hosts[host_of(inventory, role)]
    message: dict[str, Any] = {
        "table": prepared.table.to_json(),
        "batch": experiment.batch,
        "encoding": experiment.encoding.model_dump(),
    }
    if role == "load":
        return message
    message |= {
        "archive_sha256": prepared.archive_sha256,
        "threads": host.threads,
        "accelerator": host.accelerator,
        "engine": experiment.engine.model_dump(),
        "candidates": list(candidates),
    }
    if role == "server":
        assert host.data is not None, "the inventory's own check"
        return {**message, "data": {"address": str(host.data.address), "port": host.data.port}}
    # Every device has pictures of its own.
    seed = experiment.seed + list(device_roles(inventory)).index(role)
    return {**message, "input_seed": seed, "inputs": _INPUTS}


def refuse_missing_codec(experiment: Experiment, host: str, hello: Mapping[str, Any]) -> None:
    """UserError where the experiment's encoding needs a package that a worker's host lacks."""
    encoding = experiment.encoding
    wanted = [parse_input(encoding.input), parse_features(encoding.features)]
    for used, package in missing(wanted, hello["codecs"]).items():
        raise UserError(
            f"encoding: {used} needs the package {package}, which {host} does not have; "
            f"install it there (pip install {package}) or choose another encoding"
        )
