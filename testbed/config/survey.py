"""The list of networks of which ``testbed bottlenecks`` makes one comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from testbed.config.fields import Name, Strict, read_yaml


class Survey(Strict):
    """Networks to compare, each at its own resolution."""

    name: Name
    description: str = ""
    granularity: Literal["block", "layer"] = "block"
    models: tuple[str, ...] = Field(min_length=1)


def load_survey(path: Path) -> Survey:
    """Read the list; raises UserError naming the file and the YAML path of every fault."""
    return read_yaml(path, Survey)
