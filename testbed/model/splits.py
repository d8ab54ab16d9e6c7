"""The split table of an exported network.

Compression ratio, natural and compressive bottlenecks as in Bakhtiarnia et al., "Dynamic Split
Computing for Efficient Deep Edge Intelligence" (arXiv 2205.11269), section 3: elements of the
intermediate tensor over elements of the input; natural below 1; compressive below that of every
earlier natural bottleneck, the scan starting at 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from testbed.model.archive import NETWORK_PREFIX
from testbed.model.blocks import find_blocks
from testbed.model.table import LOCAL, OFFLOAD, SplitPoint, SplitTable


def split_table(
    network: nn.Module, program: ExportedProgram, name: str, resolution: int
) -> SplitTable:
    """``offload``, every block whose cut is one tensor, ``local``.

    Args:
        network: the network that was exported, on real or fake tensors.
        program: its export by :func:`testbed.model.archive.export_program`.
        name: the model's name, kept in the table.
        resolution: height and width of the input in pixels.
    """
    nodes = list(program.graph.nodes)
    (source,) = (n for n in nodes if n.name == program.graph_signature.user_inputs[0])
    (logits,) = program.graph.output_node().all_input_nodes
    input_shape = (3, resolution, resolution)
    outputs = int(logits.meta["val"].shape[1])
    last = _last_positions(nodes)
    blocks = sorted(find_blocks(network, last), key=lambda block: last[block[0]])
    lifetimes = _lifetimes(nodes, source)
    points = [SplitPoint(OFFLOAD, -1, "input", (), (input_shape,), 1.0, False, False)]
    least = 1.0
    for index, (path, module) in enumerate(blocks):
        node = _single_live(lifetimes, last[path])
        shape = None if node is None else _sample_shape(node, source)
        if node is None or shape is None or node is logits or (node.name,) == points[-1].nodes:
            continue
        ratio = torch.Size(shape).numel() / (3 * resolution**2)
        points.append(
            SplitPoint(
                split=str(index),
                index=index,
                name=f"{path} ({type(module).__name__})",
                nodes=(node.name,),
                shapes=(shape,),
                ratio=ratio,
                natural=ratio < 1,
                compressive=ratio < least,
            )
        )
        least = min(least, ratio)
    ratio = outputs / (3 * resolution**2)
    points.append(
        SplitPoint(LOCAL, len(blocks), "output", (logits.name,), ((outputs,),), ratio, False, False)
    )
    return SplitTable(name, resolution, input_shape, outputs, tuple(points))


def _last_positions(nodes: Sequence[fx.Node]) -> dict[str, int]:
    """Module path to the position of the last node that it executed."""
    last = {}
    for position, node in enumerate(nodes):
        for path, _ in node.meta.get("nn_module_stack", {}).values():
            # A second call of the same module is marked path@1.
            last[path.removeprefix(NETWORK_PREFIX).partition("@")[0]] = position
    return last


def _lifetimes(nodes: Sequence[fx.Node], source: fx.Node) -> Mapping[fx.Node, tuple[int, int]]:
    """Where each tensor that depends on the pixels is made and last used.

    Parameters, and what is computed from them or from sizes alone, are at hand on both sides.
    """
    position = {node: index for index, node in enumerate(nodes)}
    dependent: dict[fx.Node, tuple[int, int]] = {}
    for node in nodes:
        if node is source or (
            not _is_size(node) and any(n in dependent for n in node.all_input_nodes)
        ):
            users = (position[user] for user in node.users if not _is_size(user))
            dependent[node] = (position[node], max(users, default=-1))
    return dependent


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.SymInt)


def _single_live(lifetimes: Mapping[fx.Node, tuple[int, int]], cut: int) -> fx.Node | None:
    live = [node for node, (made, used) in lifetimes.items() if made <= cut < used]
    return live[0] if len(live) == 1 else None


def _sample_shape(node: fx.Node, source: fx.Node) -> tuple[int, ...] | None:
    """Shape without the batch; None where the tensor is no float32 batch of samples."""
    value = node.meta["val"]
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        return None
    batch, *sample = value.shape
    if str(batch) != str(source.meta["val"].shape[0]) or any(type(n) is not int for n in sample):
        return None
    return tuple(sample)
