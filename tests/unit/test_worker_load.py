"""A load that fails leaves nothing behind: the next run may have none."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from testbed.errors import TestbedError
from testbed.worker import load_burn
from testbed.worker.load import LoadRole
from testbed.worker.load_burn import BurnLoad


class Busy:
    """A generator, or one of its processes, of which the second ends by itself."""

    made: list[Busy]

    def __init__(self, kind: str = "cpu") -> None:
        self.closed = False
        self.capacity = 1
        self.made.append(self)

    def await_ready(self) -> None:
        if self is not self.made[0]:
            raise TestbedError("load process: ended before it was ready")

    def set_level(self, level: float, target_ns: int) -> None:
        raise TestbedError("load process: ended unasked")

    def take(self) -> tuple[int, int]:
        return 0, 0

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def none_made() -> None:
    Busy.made = []


def test_a_load_that_fails_in_a_run_is_ended() -> None:
    control: Any = SimpleNamespace(stopping=threading.Event(), record=print)
    role = LoadRole(control)
    role._generator = Busy()
    with pytest.raises(TestbedError, match="unasked"):
        role.handle({"type": "go"})
    assert [busy.closed for busy in Busy.made] == [True]


def test_processes_of_a_load_that_does_not_come_up_are_ended(monkeypatch) -> None:
    monkeypatch.setattr(load_burn, "Burner", Busy)
    with pytest.raises(TestbedError, match="ready"):
        BurnLoad("cpu", 3)
    assert [busy.closed for busy in Busy.made] == [True, True, True]
