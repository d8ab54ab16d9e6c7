"""The split table: what is cut where, told to both ends. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from testbed.errors import UserError

LOCAL, OFFLOAD = "local", "offload"


@dataclass(frozen=True)
class SplitPoint:
    """One place to cut; sizes are per sample, without the batch dimension.

    ``split`` is its name in policies and records: ``offload``, ``local``, or the 0-based index in
    order of depth. ``nodes`` are the names of the graph nodes whose outputs cross.
    """

    split: str
    index: int
    name: str
    nodes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    ratio: float
    natural: bool
    compressive: bool

    @property
    def elements(self) -> int:
        """Elements of all tensors that cross, per sample."""
        return sum(prod(shape) for shape in self.shapes)


@dataclass(frozen=True)
class SplitTable:
    """Every split point of one model at one resolution, ``offload`` first and ``local`` last.

    ``granularity`` is ``block`` or ``layer``; ``tracer`` says how the graph was made, and why so.
    """

    model: str
    resolution: int
    input_shape: tuple[int, ...]
    outputs: int
    points: tuple[SplitPoint, ...]
    granularity: str = "block"
    tracer: str = "torch.export"

    def __getitem__(self, split: str) -> SplitPoint:
        for point in self.points:
            if point.split == split:
                return point
        known = ", ".join(point.split for point in self.points)
        raise UserError(f"{self.model}: no split point {split!r}; there are {known}")

    def candidates(self, wanted: str | Iterable[str]) -> tuple[str, ...]:
        """``offload``, the wanted splits in order of depth, ``local``.

        ``wanted`` is ``compressive``, ``natural``, ``all``, or split names (which may include both
        ends).
        """
        if wanted == "all":
            return tuple(point.split for point in self.points)
        if isinstance(wanted, str):
            middle = {p.split for p in self.points if getattr(p, wanted)}
        else:
            middle = {self[split].split for split in wanted}
        inner = (p.split for p in self.points[1:-1] if p.split in middle)
        return (OFFLOAD, *inner, LOCAL)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready document that :meth:`from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> SplitTable:
        """The table back from :meth:`to_json`."""
        points = tuple(
            SplitPoint(
                **{
                    **point,
                    "nodes": tuple(point["nodes"]),
                    "shapes": tuple(tuple(shape) for shape in point["shapes"]),
                }
            )
            for point in document["points"]
        )
        fields = {**document, "input_shape": tuple(document["input_shape"]), "points": points}
        return cls(**fields)
