"""Where a network's bottlenecks are: its split points for a person or a program, without weights.

Nothing is computed: the network is built and traced on fake tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, fx
from torch.export import ExportedProgram

from testbed.model.archive import at_images
from testbed.model.export import export_program
from testbed.model.splits import BLOCK, LAYER, split_table
from testbed.model.table import SplitPoint, SplitTable
from testbed.model.zoo import native_resolution, sketch
from testbed.records import SCHEMA_VERSION

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Bottlenecks:
    """The split table of a model, and the share of its multiplications in each head."""

    table: SplitTable
    head_shares: tuple[float, ...]  # of the inner points, by depth
    macs: int  # multiply-accumulates of one image through the whole network

    @property
    def points(self) -> tuple[SplitPoint, ...]:
        """The split points between the two ends."""
        return self.table.points[1:-1]

    def to_json(self) -> dict[str, Any]:
        """The document that ``testbed bottlenecks --json`` prints."""
        points = self.points
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.table.model,
            "resolution": self.table.resolution,
            "granularity": self.table.granularity,
            "input_elements": prod(self.table.input_shape),
            "split_points": [
                {
                    "index": point.index,
                    "name": point.name,
                    "shapes": [list(shape) for shape in point.shapes],
                    "elements": point.elements,
                    "ratio": point.ratio,
                    "natural": point.natural,
                    "compressive": point.compressive,
                }
                for point in points
            ],
            "counts": {
                "split_points": len(points),
                "natural": sum(point.natural for point in points),
                "compressive": sum(point.compressive for point in points),
            },
        }


def find_bottlenecks(name: str, resolution: int | None, granularity: str = BLOCK) -> Bottlenecks:
    """Trace a model and read its split points.

    Args:
        name: as :func:`testbed.model.zoo.build` takes it.
        resolution: height and width of the input in pixels; None for the model's own.
        granularity: ``block`` or ``layer``.

    Raises UserError for a model that is unknown or cannot be traced at that resolution.
    """
    size = resolution or native_resolution(name)
    network = sketch(name)
    # Blocks lie where they lie in either graph; layers are operators of the graph that is run.
    program, tracer = export_program(network, size, functional=granularity == LAYER)
    table = split_table(network, program, name, size, granularity, tracer)
    done = _cumulative_macs(program)
    total = max(done.values(), default=0)
    shares = tuple(
        max(done[name] for name in point.nodes) / max(total, 1) for point in table.points[1:-1]
    )
    return Bottlenecks(table, shares, total)


def _cumulative_macs(program: ExportedProgram) -> dict[str, int]:
    """Node name to the multiply-accumulates of one image up to it."""
    total, done = 0, {}
    for node in program.graph.nodes:
        total += _macs(node)
        done[node.name] = total
    return done


def _macs(node: fx.Node) -> int:
    """Of convolutions, linear layers, matrix products and attention; all else counts nothing."""
    result = node.meta.get("val")
    operands = [n.meta.get("val") for n in node.all_input_nodes]
    tensors = [value for value in operands if isinstance(value, Tensor)]
    if not isinstance(result, Tensor) or len(tensors) < 2 or result.dim() == 0:
        return 0
    operator = str(node.target).removeprefix("aten.").partition(".")[0]
    if operator in ("conv2d", "conv1d", "conv3d", "convolution"):
        per_output = prod(tensors[1].shape[1:])
    elif operator in ("linear", "matmul", "bmm", "mm"):
        per_output = tensors[0].shape[-1]
    elif operator == "addmm":
        per_output = tensors[1].shape[-1]
    elif operator.startswith(("scaled_dot_product", "_scaled_dot_product")):
        # Queries times keys, and their weights times values: two products of the same size.
        per_output = 2 * tensors[1].shape[-2]
    else:
        return 0
    return _for_one_image(result) * int(per_output)


def _for_one_image(tensor: Tensor) -> int:
    return prod(at_images(size, 1) for size in tensor.shape)
