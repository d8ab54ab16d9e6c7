"""The split table of an exported network.

Compression ratio, natural and compressive bottlenecks as in Bakhtiarnia et al., "Dynamic Split
Computing for Efficient Deep Edge Intelligence" (arXiv 2205.11269), section 3: elements of the
intermediate tensors over elements of the input; natural below 1; compressive below that of every
earlier natural bottleneck, the scan starting at 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

from torch import fx, nn
from torch.export import ExportedProgram

from testbed.model.blocks import find_blocks
from testbed.model.export import NETWORK_PREFIX
from testbed.model.graphs import module_tree
from testbed.model.live import Graph, positions_by_module, sample_shape
from testbed.model.table import LOCAL, OFFLOAD, SplitPoint, SplitTable

BLOCK, LAYER = "block", "layer"

_Cut = tuple[str, tuple[fx.Node, ...]]  # its name and what crosses


def split_table(
    network: nn.Module,
    program: ExportedProgram,
    name: str,
    resolution: int,
    granularity: str = BLOCK,
    tracer: str = "torch.export",
) -> SplitTable:
    """``offload``, the cuts, ``local``.

    Args:
        network: the network that was exported, on real or fake tensors.
        program: its export by :func:`testbed.model.export.export_program`.
        name: the model's name, kept in the table.
        resolution: height and width of the input in pixels.
        granularity: ``block`` for every block whose cut is one tensor, ``layer`` for every cut.
        tracer: how ``program`` was made, kept in the table.
    """
    graph = Graph.of(program)
    cuts = _layers(graph) if granularity == LAYER else _blocks(graph, network)
    input_shape = (3, resolution, resolution)
    outputs = int(graph.logits.meta["val"].shape[1])
    inner = tuple(_points(cuts, graph, prod(input_shape)))
    ends = (
        SplitPoint(OFFLOAD, -1, "input", (), (input_shape,), 1.0, False, False),
        SplitPoint(
            split=LOCAL,
            index=len(inner),
            name="output",
            nodes=(graph.logits.name,),
            shapes=((outputs,),),
            ratio=outputs / prod(input_shape),
            natural=False,
            compressive=False,
        ),
    )
    points = (ends[0], *inner, ends[1])
    return SplitTable(name, resolution, input_shape, outputs, points, granularity, tracer)


def _blocks(graph: Graph, network: nn.Module) -> Iterator[_Cut]:
    """Behind each executed block, where one tensor crosses."""
    last = positions_by_module(graph.nodes, NETWORK_PREFIX)
    blocks = sorted(find_blocks(module_tree(network), last), key=lambda block: last[block[0]])
    for path, module in blocks:
        live = graph.live_after(last[path])
        if len(live) == 1:
            yield f"{path} ({type(module).__name__})", live


def _layers(graph: Graph) -> Iterator[_Cut]:
    """Behind each operator; named by the module it belongs to."""
    for position, live in graph.every_cut():
        node = graph.nodes[position]
        stack = list(node.meta.get("nn_module_stack", {}).values())
        path = stack[-1][0].removeprefix(NETWORK_PREFIX) if stack else "forward"
        operator = str(node.target).removeprefix("aten.").partition(".")[0]
        if node.name.startswith("getitem"):  # one result of the operator before it
            operator = str(node.args[0].target).removeprefix("aten.").partition(".")[0]  # type: ignore[union-attr]
        yield f"{path.partition('@')[0]} ({operator})", live


def _points(cuts: Iterable[_Cut], graph: Graph, input_elements: int) -> Iterator[SplitPoint]:
    """Numbers the cuts that can be sent, and tells the bottlenecks among them."""
    least, index, previous = 1.0, 0, tuple[fx.Node, ...]()
    for name, live in cuts:
        shapes = [sample_shape(node) for node in live]
        sendable = tuple(shape for shape in shapes if shape is not None)
        if len(sendable) < len(live) or graph.logits in live or live == previous:
            continue
        ratio = sum(map(prod, sendable)) / input_elements
        yield SplitPoint(
            split=str(index),
            index=index,
            name=name,
            nodes=tuple(node.name for node in live),
            shapes=sendable,
            ratio=ratio,
            natural=ratio < 1,
            compressive=ratio < least,
        )
        least, index, previous = min(least, ratio), index + 1, live
