"""Which tensors are live after each node of a graph: every place where it can be cut.

A tensor is live at a position if it depends on the pixels, has been made and is used later.
Parameters, and what is computed from them or from sizes alone, are at hand on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from testbed.errors import UserError
from testbed.model.archive import at_images, is_size, last_output
from testbed.model.export import PREPROCESSING_END


@dataclass(frozen=True)
class Graph:
    """The nodes of an exported network in topological order, with its input and its output."""

    nodes: tuple[fx.Node, ...]
    source: fx.Node
    logits: fx.Node
    first: int  # position of the last preprocessing node
    made_used: dict[fx.Node, tuple[int, int]]  # of each tensor that depends on the pixels

    @classmethod
    def of(cls, program: ExportedProgram) -> Graph:
        """Read lifetimes off an export by :func:`testbed.model.export.export_program`."""
        nodes = tuple(program.graph.nodes)
        signature = program.graph_signature
        (source,) = (n for n in nodes if n.name == signature.user_inputs[0])
        buffers = {n: n.name for n in nodes if n.op == "placeholder"}
        logits = last_output(program)
        assert isinstance(logits, fx.Node)
        made_used = _lifetimes(nodes, source)
        if logits not in made_used:
            raise UserError("model: its output does not depend on the images; take another model")
        (std,) = (
            n for n, name in buffers.items()
            if signature.inputs_to_buffers.get(name) == PREPROCESSING_END
        )  # fmt: skip
        (normalised,) = std.users
        return cls(nodes, source, logits, nodes.index(normalised), made_used)

    def live_after(self, position: int) -> tuple[fx.Node, ...]:
        """What would cross a cut behind that node, in the order in which it is made."""
        live = (n for n, (made, used) in self.made_used.items() if made <= position < used)
        return _bases(live)

    def every_cut(self) -> list[tuple[int, tuple[fx.Node, ...]]]:
        """Position and live tensors of each different cut inside the network, by depth."""
        cuts: list[tuple[int, tuple[fx.Node, ...]]] = []
        live = [n for n, (made, used) in self.made_used.items() if made <= self.first < used]
        previous = _bases(live)
        for position in range(self.first + 1, len(self.nodes)):
            live = [node for node in live if self.made_used[node][1] > position]
            node = self.nodes[position]
            if node in self.made_used and self.made_used[node][1] > position:
                live.append(node)
            bases = _bases(live)
            if bases and bases != previous:
                cuts.append((position, bases))
            previous = bases
        return cuts


def _lifetimes(nodes: Sequence[fx.Node], source: fx.Node) -> dict[fx.Node, tuple[int, int]]:
    """Where each tensor that depends on ``source`` is made and last used."""
    position = {node: index for index, node in enumerate(nodes)}
    found: dict[fx.Node, tuple[int, int]] = {}
    for node in nodes:
        if node is source or (not is_size(node) and any(n in found for n in node.all_input_nodes)):
            users = (position[user] for user in node.users if not is_size(user))
            found[node] = (position[node], max(users, default=-1))
    return found


def _bases(live: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
    """The tensors that views of all their elements show, each once: the tail views them again.

    A view may show elements several times (expanded, windows that overlap): what it shows is less.
    """
    found: dict[fx.Node, None] = {}
    for node in live:
        while _is_view(node):
            node = node.args[0]  # type: ignore[assignment]
        found[node] = None
    return tuple(found)


def sample_shape(node: fx.Node) -> tuple[int, ...] | None:
    """Shape for one image; None where the tensor is no float32 tensor that grows with the batch.

    The batch may be any dimension, alone or times a count (the windows of a Swin transformer).
    """
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        return None
    once, twice, thrice = ([at_images(size, n) for size in value.shape] for n in (1, 2, 3))
    growing = [
        (one, two, three) for one, two, three in zip(once, twice, thrice, strict=True) if two != one
    ]
    if len(growing) != 1 or growing[0] != (growing[0][0], 2 * growing[0][0], 3 * growing[0][0]):
        return None
    return tuple(one for one, two in zip(once, twice, strict=True) if one == two or one > 1)


def _is_view(node: fx.Node) -> bool:
    """Whether a node shows all the elements of its one operand again, without computing."""
    if not isinstance(node.target, torch._ops.OpOverload) or len(node.all_input_nodes) == 0:
        return False
    value, operand = node.meta.get("val"), node.args[0]
    shown = operand.meta.get("val") if isinstance(operand, fx.Node) else None
    if not isinstance(value, Tensor) or not isinstance(shown, Tensor):
        return False
    schema = node.target._schema
    aliases = any(result.alias_info is not None for result in schema.returns)
    least, most = (at_images(tensor.numel(), 1) for tensor in (shown, value))
    return aliases and not schema.is_mutable and least <= most


def positions_by_module(nodes: Sequence[fx.Node], prefix: str) -> dict[str, int]:
    """Module path to the position of the last node that it executed."""
    last = {}
    for position, node in enumerate(nodes):
        for path, _ in node.meta.get("nn_module_stack", {}).values():
            # A second call of the same module is marked path@1.
            last[path.removeprefix(prefix).partition("@")[0]] = position
    return last
