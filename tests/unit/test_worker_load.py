"""Stepping along a load trace."""

from __future__ import annotations

import pytest

from testbed.worker.load import clients_at

STEPS = [[0, 0], [100, 3], [250, 1]]


@pytest.mark.parametrize(
    ("t_ns", "period_ns", "expected"),
    [
        (0, None, (0, 100)),
        (99, None, (0, 100)),
        (100, None, (3, 250)),
        (250, None, (1, None)),
        (10_000, None, (1, None)),
        (250, 400, (1, 400)),
        (400, 400, (0, 500)),
        (1301, 400, (3, 1450)),
    ],
)
def test_clients_at(t_ns: int, period_ns: int | None, expected: tuple[int, int | None]) -> None:
    assert clients_at(STEPS, period_ns, t_ns) == expected
