"""Head, tail and whole model as subgraphs of one archive's graph, sharing its weights.

Needs torch alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        *_IN_PLACE.values(),
        aten._native_batch_norm_legit_no_training.default,
        aten._to_copy.default,
        aten.cat.default,
        aten.conv2d.default,
        aten.linear.default,
        aten.native_layer_norm.default,
    }
)


def cut_head(module: fx.GraphModule, point: SplitPoint) -> fx.GraphModule:
    """Pixels to what crosses: a tensor ``(N, *shape)``, or a tuple of them in the table's order."""
    (batch, *_) = _input(module).meta["val"].shape
    return _subgraph(module, [_input(module)], [_named(module, name) for name in point.nodes],
                     outgoing=[(batch, *shape) for shape in point.shapes])  # fmt: skip


def cut_tail(module: fx.GraphModule, point: SplitPoint) -> fx.GraphModule:
    """What crosses, contiguous tensors ``(N, *shape)`` as arguments, to logits.

    The head's shape and memory layout are given back to each first: convolutions and pools of
    another layout add in another order, and *split equals whole* would fail in the last bits.
    """
    starts = [_named(module, name) for name in point.nodes]
    tail = _subgraph(module, starts, [_logits(module)])
    arguments = tail.graph.find_nodes(op="placeholder")
    for argument, start in zip(arguments, starts, strict=True):
        value = start.meta["val"]
        _restore(tail.graph, argument, list(value.shape), list(value.stride()))
    tail.recompile()
    return tail


def cut_whole(module: fx.GraphModule) -> fx.GraphModule:
    """Pixels to logits."""
    return _subgraph(module, [_input(module)], [_logits(module)])


def _restore(graph: fx.Graph, argument: fx.Node, shape: list[int], strides: list[int]) -> None:
    """Give a contiguous argument the shape and the order of dimensions in memory it had."""
    users = list(argument.users)
    order = sorted(range(len(strides)), key=lambda dim: -strides[dim])
    back = sorted(range(len(order)), key=order.__getitem__)
    at = argument
    steps: list[tuple[Any, list[int] | None]] = [(aten.view.default, shape)]
    if order != sorted(order):
        steps += [
            (aten.permute.default, order),
            (aten.contiguous.default, None),
            (aten.permute.default, back),
        ]
    for target, argument_list in steps:
        with graph.inserting_after(at):
            at = graph.call_function(
                target, (at,) if argument_list is None else (at, argument_list)
            )
    for user in users:
        user.replace_input_with(argument, at)


def _input(module: fx.GraphModule) -> fx.Node:
    node: fx.Node
    (node,) = module.graph.find_nodes(op="placeholder")
    return node


def _logits(module: fx.GraphModule) -> fx.Node:
    node: fx.Node
    (node,) = module.graph.output_node().all_input_nodes
    return node


def _named(module: fx.GraphModule, name: str) -> fx.Node:
    node: fx.Node
    for node in module.graph.nodes:
        if node.name == name:
            return node
    raise TestbedError(f"archive: no graph node {name!r}; the split table is of another archive")


def _subgraph(
    module: fx.GraphModule,
    starts: Sequence[fx.Node],
    ends: Sequence[fx.Node],
    outgoing: Sequence[tuple[int, ...]] = (),
) -> fx.GraphModule:
    """Everything that ``ends`` need when ``starts`` are given; raises if that is not enough.

    One end is returned as it is, several as a tuple; ``outgoing`` are the shapes to give them.
    """
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
    results = [copies[end] for end in ends]
    _put_back_in_place(graph, frozenset(results))
    for place, shape in enumerate(outgoing):
        if ends[place].meta["val"].shape != shape:
            results[place] = graph.call_function(aten.reshape.default, (results[place], [*shape]))
    graph.output(results[0] if len(results) == 1 else tuple(results))
    return fx.GraphModule(module, graph)


def _put_back_in_place(graph: fx.Graph, kept: frozenset[fx.Node]) -> None:
    """Overwrite operands that nobody else sees: functional activations cost 3 to 10 %.

    An operand qualifies if its operator makes memory of its own, it is not ``kept`` as a result,
    and this node is its only user: no view, no placeholder and no parameter then shares its memory.
    """
    for node in graph.nodes:
        in_place = _IN_PLACE.get(node.target)
        operand = node.args[0] if in_place is not None else None
        if (
            isinstance(operand, fx.Node)
            and operand not in kept
            and len(operand.users) == 1
            and _is_fresh(operand)
        ):
            before, after = operand.meta["val"], node.meta["val"]
            if before.shape == after.shape and before.dtype == after.dtype:
                node.target = in_place


def _is_fresh(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return False
    if node.op == "call_function" and node.name.startswith("getitem"):
        source, index = node.args
        return isinstance(source, fx.Node) and source.target in _FRESH and bool(index == 0)
    return node.target in _FRESH
