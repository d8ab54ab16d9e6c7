"""What the tests of the link role share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.lab.wire import Role, Wire


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with ExitStack() as stack:
        made = Wire()
        stack.callback(made.down)
        made.up()
        yield made


@pytest.fixture
def role(wire: Wire) -> Iterator[Role]:
    with ExitStack() as stack:
        made = Role(wire.names["router"])
        stack.callback(made.close)
        yield made
