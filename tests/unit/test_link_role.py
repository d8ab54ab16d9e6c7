"""What the role refuses before it touches the host, and how it finds the SSH client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

import pytest

from testbed.control import Control, serve
from testbed.link.host import ssh_client
from testbed.link.role import LinkRole


def answers(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    """All that the role says to these messages, after its greeting."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, tempfile.TemporaryFile() as sink:
        with os.fdopen(writing, "wb") as orchestrator:
            orchestrator.writelines(json.dumps(m).encode() + b"\n" for m in messages)
        control = Control(source, sink)
        assert serve("link", control, LinkRole(control, {"SSH_CONNECTION": ""})) == 0
        sink.seek(0)
        said = [json.loads(line) for line in sink]
    assert said[0]["type"] == "hello"
    assert said[0]["role"] == "link"
    return said[1:]


def side(interface: str) -> dict[str, Any]:
    return {"interface": interface, "rate_bps": 10**6, "queue_bytes": 10_000}


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"type": "dance"}, "unknown message 'dance'"),
        ({"type": "go"}, "start comes before go"),
        (
            {
                "type": "start",
                "run_id": "r",
                "schedules": {"uplink": {"changes": [[0, 9000]], "duration_ns": 9, "end": "loop"}},
            },
            "not set up",
        ),
        (
            {"type": "setup", "directions": {"uplink": side("nosuch0")}},
            "nosuch0: no such interface",
        ),
        (
            {"type": "setup", "directions": {"uplink": side("a"), "downlink": side("a")}},
            "one interface a direction",
        ),
    ],
)
def test_refusals_are_told_as_the_callers_mistake(message: dict[str, Any], told: str) -> None:
    (error,) = answers(message)
    assert error["type"] == "error"
    assert error["user"]
    assert told in error["message"]


def test_the_role_lives_on_after_a_refusal_and_restores_nothing_when_nothing_is_shaped() -> None:
    refused, restored = answers({"type": "go"}, {"type": "restore"})
    assert refused["type"] == "error"
    assert restored == {"type": "restored", "attempt": None, "after": {}}


def test_ssh_client_from_the_environment() -> None:
    assert ssh_client({"SSH_CONNECTION": "192.0.2.7 50000 192.0.2.1 22"}) == "192.0.2.7"
    assert ssh_client({"SSH_CONNECTION": ""}) is None


def test_ssh_client_from_an_ancestor_where_sudo_has_cleaned_the_environment() -> None:
    ask = "from testbed.link.host import ssh_client; print(ssh_client({}))"
    cleaning = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {ask!r}], check=True, env={{'PYTHONPATH': '.'}})"
    )
    told = subprocess.run(
        [sys.executable, "-c", cleaning],
        env={**os.environ, "SSH_CONNECTION": "192.0.2.9 50000 192.0.2.1 22"},
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert told.stdout.strip() == "192.0.2.9"


def test_the_role_imports_nothing_of_the_other_rooms() -> None:
    look = "import sys, testbed.link.role; print(' '.join(sys.modules))"
    told = subprocess.run(
        [sys.executable, "-c", look], check=True, capture_output=True, text=True, timeout=30
    )
    loaded = set(told.stdout.split())
    assert not loaded & {"torch", "numpy", "pydantic", "yaml", "pandas", "paramiko"}
