"""Golden campaigns, as fixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.analysis.synthetic import Maker, Synthetic, write_campaign


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One condition, every policy, in the shape of a real campaign; tests only read it."""
    return write_campaign(tmp_path_factory.mktemp("golden") / "campaign", Synthetic())


@pytest.fixture
def make_campaign(tmp_path: Path) -> Maker:
    """Makes a campaign of the test's own, to be broken at will."""

    def make(**fields: Any) -> Path:
        return write_campaign(tmp_path / "campaign", Synthetic(**fields))

    return make
