"""Head, tail and whole model as subgraphs of one exported program, sharing its parameters.

Needs torch alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.fx.node import map_arg

from testbed.errors import TestbedError
from testbed.model.archive import torch_warnings_silenced

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


def flat_module(program: ExportedProgram, batch: int) -> fx.GraphModule:
    """The program for one batch size, its parameters attached, guards and asserts removed.

    A run has one batch size, so sizes become constants: a size computed in the head would
    otherwise have to cross with the tensor, and a frame's length would not be known beforehand.
    """
    with torch_warnings_silenced():
        module = program.module()
    assert isinstance(module, fx.GraphModule)
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            _replace(node, _at_batch(value, batch))
    # The graph is functional: whatever nobody uses only checks.
    for node in reversed(module.graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            module.graph.erase_node(node)
    return module


def _at_batch(size: int | torch.SymInt, batch: int) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, batch)))


def _replace(node: fx.Node, constant: int) -> None:
    def substitute(other: fx.Node) -> Any:
        return constant if other is node else other

    for user in list(node.users):
        user.args = map_arg(user.args, substitute)
        user.kwargs = map_arg(user.kwargs, substitute)


def cut_head(module: fx.GraphModule, node: str) -> fx.GraphModule:
    """Pixels to the intermediate tensor that the named graph node makes."""
    return _subgraph(module, _input(module), _named(module, node))


def cut_tail(module: fx.GraphModule, node: str, batch: int) -> fx.GraphModule:
    """The intermediate tensor that the named graph node makes, contiguous, to logits.

    The head's memory layout is given back to it first: convolutions and pools of another layout
    add in another order, and *split equals whole* would fail in the last bits.
    """
    start = _named(module, node)
    tail = _subgraph(module, start, _logits(module))
    strides = [_at_batch(stride, batch) for stride in start.meta["val"].stride()]
    order = sorted(range(len(strides)), key=lambda dim: -strides[dim])
    if order != sorted(order):
        received = _input(tail)
        with tail.graph.inserting_after(received):
            moved = tail.graph.call_function(aten.permute.default, (received, order))
        with tail.graph.inserting_after(moved):
            packed = tail.graph.call_function(aten.contiguous.default, (moved,))
        back = sorted(range(len(order)), key=order.__getitem__)
        with tail.graph.inserting_after(packed):
            restored = tail.graph.call_function(aten.permute.default, (packed, back))
        received.replace_all_uses_with(restored, delete_user_cb=lambda user: user is not moved)
        tail.recompile()
    return tail


def cut_whole(module: fx.GraphModule) -> fx.GraphModule:
    """Pixels to logits."""
    return _subgraph(module, _input(module), _logits(module))


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


def _subgraph(module: fx.GraphModule, start: fx.Node, end: fx.Node) -> fx.GraphModule:
    """Everything that ``end`` needs when ``start`` is given; raises if that is not enough."""
    needed: set[fx.Node] = set()
    stack = [end]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(() if node is start else node.all_input_nodes)
    if start not in needed or any(n.op == "placeholder" and n is not start for n in needed):
        raise TestbedError(
            f"archive: {start.name!r} alone does not make {end.name!r}; "
            "the split table is of another archive"
        )
    graph = fx.Graph()
    copies = {start: graph.placeholder("received")}
    for node in module.graph.nodes:
        if node in needed and node is not start:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[end])
    _put_back_in_place(graph)
    return fx.GraphModule(module, graph)


def _put_back_in_place(graph: fx.Graph) -> None:
    """Overwrite operands that nobody else sees: functional activations cost 3 to 10 %.

    An operand qualifies if its operator makes memory of its own and this node is its only user:
    no view of it, no output, no placeholder and no parameter can then share its memory.
    """
    for node in graph.nodes:
        in_place = _IN_PLACE.get(node.target)
        operand = node.args[0] if in_place is not None else None
        if isinstance(operand, fx.Node) and len(operand.users) == 1 and _is_fresh(operand):
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
