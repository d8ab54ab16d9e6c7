"""A network in pieces between its split points, subgraphs of one archive on one set of weights.

Needs torch alone.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx

from testbed.errors import TestbedError
from testbed.model.table import SplitPoint

aten = torch.ops.aten

# What export made functional, and the overload that overwrites its first operand.
_IN_PLACE: Mapping[Any, Any] = {
    aten.relu.default: aten.relu_.default,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.silu.default: aten.silu_.default,
    aten.hardswish.default: aten.hardswish_.default,
    aten.hardsigmoid.default: aten.hardsigmoid_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.gelu.default: aten.gelu_.default,
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.div.Tensor: aten.div_.Tensor,
}
# Operators whose first result is memory of its own, never a view or an operand itself.
_FRESH = frozenset(
    {
        *_IN_PLACE,
        aten._native_batch_norm_legit_no_training.default,
        aten._to_copy.default,
        aten.cat.default,
        aten.conv2d.default,
        aten.linear.default,
        aten.native_layer_norm.default,
    }
)


@dataclass(frozen=True)
class Crossed:
    """How one tensor that crosses is sent, contiguous, and how it lies in the graph.

    ``strides`` are those of the graph's value, or None where they are a contiguous tensor's, or
    where elements share memory.
    """

    sent: tuple[int, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None

    @classmethod
    def of(cls, node: fx.Node, sent: tuple[int, ...]) -> Crossed:
        """Read off the value that a graph node makes."""
        value = node.meta["val"]
        plain = value.is_contiguous() or _overlaps(value)
        return cls(sent, tuple(value.shape), None if plain else value.stride())

    def outgoing(self, tensor: Tensor) -> Tensor:
        """The graph's value in the shape that is sent."""
        return tensor if self.shape == self.sent else tensor.reshape(self.sent)

    def incoming(self, tensor: Tensor) -> Tensor:
        """What was sent, in the shape and the memory layout that it had in the graph.

        Convolutions and pools of another layout add in another order, and *split equals whole*
        would fail in the last bits.
        """
        tensor = tensor.view(self.shape)
        if self.strides is None:
            return tensor
        made = torch.empty_strided(
            self.shape, self.strides, dtype=tensor.dtype, device=tensor.device
        )
        return made.copy_(tensor)


def _overlaps(value: Tensor) -> bool:
    """Whether two elements may lie in the same place, as in an expanded tensor."""
    reach = 0
    for stride, size in sorted(zip(value.stride(), value.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def cut(
    module: fx.GraphModule, points: Sequence[SplitPoint]
) -> tuple[list[fx.GraphModule], list[tuple[Crossed, ...]]]:
    """The network in pieces, cut at ``points`` in order of depth, and what crosses each cut.

    A piece takes the tensors of the cut before it (the first: pixels) and gives those of the cut
    behind it (the last: logits), a tuple in the table's order; it may overwrite what it takes, but
    for the pixels.

    Raises TestbedError where a point is none of this graph.
    """
    named = {node.name: node for node in module.graph.nodes}
    stations = [[node for node in module.graph.nodes if node.op == "placeholder"]]
    stations += [[_named(named, name) for name in point.nodes] for point in points]
    stations += [node.all_input_nodes for node in module.graph.nodes if node.op == "output"]
    (pixels,) = stations[0]
    batch = pixels.meta["val"].shape[0]
    pieces = [_piece(module, starts, ends) for starts, ends in pairwise(stations)]
    crossed = [
        tuple(Crossed.of(n, (batch, *sent)) for n, sent in zip(nodes, point.shapes, strict=True))
        for nodes, point in zip(stations[1:-1], points, strict=True)
    ]
    return pieces, crossed


def _named(nodes: Mapping[str, fx.Node], name: str) -> fx.Node:
    if name not in nodes:
        raise TestbedError(f"archive: no node {name!r}; the split table is of another archive")
    return nodes[name]


def _piece(
    module: fx.GraphModule, starts: Sequence[fx.Node], ends: Sequence[fx.Node]
) -> fx.GraphModule:
    """Everything that ``ends`` need when ``starts`` are given; raises if that is not enough."""
    needed: set[fx.Node] = set()
    stack = list(ends)
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(() if node in starts else node.all_input_nodes)
    if any(n.op == "placeholder" and n not in starts for n in needed):
        raise TestbedError(
            f"archive: {', '.join(n.name for n in starts)} alone does not make "
            f"{', '.join(n.name for n in ends)}; the split table is of another archive"
        )
    graph = fx.Graph()
    copies = {start: graph.placeholder(f"received_{n}") for n, start in enumerate(starts)}
    for node in module.graph.nodes:
        if node in needed and node not in starts:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            if _may_overwrite(node, ends):
                copies[node].target = _IN_PLACE[node.target]
    graph.output(tuple(copies[end] for end in ends))
    return fx.GraphModule(module, graph)


def _may_overwrite(node: fx.Node, kept: Sequence[fx.Node]) -> bool:
    """Whether an operator may overwrite its first operand: functional ones cost 3 to 10 %.

    The operand qualifies if its operator makes memory of its own, it is not ``kept`` as a result,
    and this node is its only user in all of the network: no view, no piece behind this one, not the
    pixels and no parameter then share its memory.
    """
    operand = node.args[0] if node.target in _IN_PLACE else None
    if not isinstance(operand, fx.Node) or operand in kept or len(operand.users) > 1:
        return False
    before, after = operand.meta["val"], node.meta["val"]
    return _is_fresh(operand) and before.shape == after.shape and before.dtype == after.dtype


def _is_fresh(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return False
    if node.target is operator.getitem:
        source, index = node.args
        return isinstance(source, fx.Node) and source.target in _FRESH and bool(index == 0)
    return node.target in _FRESH
