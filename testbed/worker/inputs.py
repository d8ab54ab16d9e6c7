"""The images that queries are made of: real ones that were sent here, or drawn from a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from testbed.errors import TestbedError
from testbed.model.table import SplitTable
from testbed.records import sha256_file

Labels = tuple[Tensor, ...] | None


def seeded_inputs(table: SplitTable, *, batch: int, seed: int, count: int) -> tuple[Tensor, ...]:
    """Distinct uint8 image batches ``(batch, C, H, W)``, the same on every host for a seed."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, *table.input_shape)
    return tuple(
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(count)
    )


def real_inputs(pictures: dict[str, str], batch: int) -> tuple[tuple[Tensor, ...], Labels]:
    """Batches ``(batch, C, H, W)`` of the images in the file that a ``setup`` names, and labels.

    The last batch is filled up from the first image on. Raises TestbedError for another file.
    """
    content = _read(Path(pictures["path"]).expanduser(), pictures["sha256"])
    images, labels = content["images"], content["labels"]
    picked = (torch.arange(-(-len(images) // batch) * batch) % len(images)).view(-1, batch)
    batches = tuple(images[some] for some in picked)
    return batches, None if labels is None else tuple(labels[some] for some in picked)


def _read(path: Path, sha256: str) -> dict[str, Any]:
    if (actual := sha256_file(path)) != sha256:
        raise TestbedError(f"{path}: SHA-256 is {actual}, expected {sha256}; deploy it again")
    return dict(torch.load(path, map_location="cpu", weights_only=True))
