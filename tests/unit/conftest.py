"""Roles that are set up once for all tests of workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.unit.exported import exported
from tests.unit.role_process import (
    SITE,
    Role,
    Tiny,
    set_up_device,
    set_up_server,
)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(SITE)
    return {"PYTHONPATH": str(folder)}


@pytest.fixture(scope="session")
def setup(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.manual_seed(3)
    tiny = exported(Tiny(), tmp_path_factory.mktemp("model") / "tiny.archive", 64)
    return {
        "archive": str(tiny.archive),
        "archive_sha256": tiny.archive_sha256,
        "table": tiny.table.to_json(),
        "candidates": list(tiny.table.candidates("natural")),
        "encoding": {"input": "uint8", "features": "float32"},
        "batch": 2,
        "threads": 1,
        "accelerator": "cpu",
    }


@pytest.fixture(scope="session")
def roles(environment: dict[str, str], setup: dict[str, Any]) -> Iterator[tuple[Role, Role, int]]:
    device, server = Role("device", environment), Role("server", environment)
    try:
        for role in (device, server):
            hello = role.wait("hello")
            assert hello["torch"] == torch.__version__
            assert hello["cpu_count"] >= 1
        readies = [set_up_device(device, setup), set_up_server(server, setup)]
        for ready in readies:
            assert ready["archive_sha256"] == setup["archive_sha256"]
            assert ready["check"] == dict.fromkeys(setup["candidates"], True)
        yield device, server, readies[1]["port"]
    finally:
        assert [role.close() for role in (device, server)] == [0, 0]
