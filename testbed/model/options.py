"""What an engine may do to a network to run faster, off by default. Needs torch alone.

The results are no longer the plain engine's bit for bit; head and tail still are the whole's, for
both are run in the same way.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

aten = torch.ops.aten
_NORM = aten._native_batch_norm_legit_no_training.default


@dataclass(frozen=True)
class Options:
    """``channels_last`` lays images out by pixel, ``fold_batchnorm`` multiplies norms into the
    convolutions before them, ``compile`` hands each piece to ``torch.compile``.
    """

    channels_last: bool = False
    compile: bool = False
    fold_batchnorm: bool = False

    @property
    def plain(self) -> bool:
        """Whether nothing is changed."""
        return self == Options()


def fold_batch_norms(module: fx.GraphModule, kept: Collection[str]) -> None:
    """Multiply every batch norm behind a convolution into it, and leave both out.

    A convolution whose own result is needed (``kept`` by name, or by another operator) stays.
    """
    graph = module.graph
    for norm in [node for node in graph.nodes if node.target is _NORM]:
        convolution, (result, *others) = norm.args[0], norm.users
        assert isinstance(convolution, fx.Node), "what is normalised"
        if (
            others
            or result.target is not operator.getitem
            or convolution.target is not aten.conv2d.default
            or len(convolution.users) > 1
            or convolution.name in kept
        ):
            continue
        weights = _folded(module, convolution.args, norm.args)
        with graph.inserting_before(result):
            nodes = [
                graph.get_attr(_keep(module, f"{norm.name}_{kind}", value))
                for kind, value in zip(("weight", "bias"), weights, strict=True)
            ]
        # The node stays, for the split table knows it by name.
        result.target = aten.conv2d.default
        result.args = (convolution.args[0], *nodes, *convolution.args[3:])
        result.kwargs = convolution.kwargs
        for node in (norm, convolution):
            graph.erase_node(node)
    _drop_unused(module)


def _folded(
    module: fx.GraphModule, convolution: Sequence[Any], norm: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    """Weight and bias that do both, of the arguments of either operator."""
    weight, bias = (_value(module, node) for node in (*convolution[1:3], None)[:2])
    scale, shift, mean, variance = (_value(module, node) for node in norm[1:5])
    factor = torch.rsqrt(_there(variance) + norm[6])
    factor = factor if scale is None else factor * scale
    moved = (-_there(mean) if bias is None else bias - _there(mean)) * factor
    return _there(weight) * factor.view(-1, 1, 1, 1), moved if shift is None else moved + shift


def _value(module: fx.GraphModule, node: fx.Node | None) -> Tensor | None:
    return None if node is None else _there(getattr(module, str(node.target))).detach()


def _there(value: Tensor | None) -> Tensor:
    assert isinstance(value, Tensor), "an operator's own"
    return value


def _keep(module: fx.GraphModule, name: str, value: Tensor) -> str:
    module.register_parameter(f"folded_{name}", nn.Parameter(value, requires_grad=False))
    return f"folded_{name}"


def _drop_unused(module: fx.GraphModule) -> None:
    for node in [node for node in module.graph.nodes if node.op == "get_attr"]:
        if not node.users:
            module.graph.erase_node(node)
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in [*dict(module.named_parameters()), *dict(module.named_buffers())]:
        if name not in used:
            delattr(module, name)
    module.recompile()


def lay_out_by_pixel(module: fx.GraphModule, pixels: Tensor) -> None:
    """Weights of convolutions in ``channels_last``; each node's ``meta["val"]`` as it then lies."""
    for weight in (*module.parameters(), *module.buffers()):
        if weight.dim() == 4:
            weight.data = weight.data.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        _Layouts(module).run(pixels)


class _Layouts(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["val"] = torch.empty_strided(
                result.shape, result.stride(), dtype=result.dtype, device="meta"
            )
        return result
