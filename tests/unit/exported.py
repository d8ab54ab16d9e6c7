"""A test's own network as it lies on a host."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from testbed.model.archive import save_archive
from testbed.model.cache import Prepared
from testbed.model.export import export_program
from testbed.model.splits import BLOCK, split_table


def exported(
    network: nn.Module, archive: Path, resolution: int, granularity: str = BLOCK
) -> Prepared:
    """The network in eval mode, cut and written to ``archive``."""
    program, _ = export_program(network.eval(), resolution)
    table = split_table(network, program, archive.stem, resolution, granularity)
    return Prepared(archive, save_archive(program, archive), table)
