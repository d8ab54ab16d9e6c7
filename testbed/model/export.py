"""A network as ``torch.export`` sees it: uint8 pixels in, logits out. Orchestrator only.

The exported graph is functional, its batch dimension dynamic, and the preprocessing is its first
step, so whichever side runs the first layer also preprocesses.
"""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_leaves

from testbed.errors import UserError
from testbed.model.archive import last_output
from testbed.model.graphs import GraphNetwork, trace_by_fx

# Module paths of the network inside the exported graph begin with this.
NETWORK_PREFIX = "network."
# The buffer that the last step of the preprocessing divides by.
PREPROCESSING_END = "std"
_IMAGES_AT_MOST = 2**20  # of one query; no memory holds as many
# Of the largest logit: the fused operators that eager mode chooses round otherwise, by far less.
_TRACED_CLOSE = 1e-4
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, as torchvision's transforms


class PixelNetwork(nn.Module):
    """A classifier that takes the uint8 image batch ``(N, 3, H, W)`` itself."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits ``(N, outputs)`` of uint8 pixels ``(N, 3, H, W)``."""
        unit = pixels.to(torch.float32).div(255)
        logits: Tensor = self.network((unit - self.mean) / self.std)
        return logits


@contextmanager
def torch_warnings_silenced() -> Iterator[None]:
    """Export and unlift trip over deprecations inside torch itself, which nobody here can mend.

    What torch refuses it logs too, with the graph so far; the error raised says it in one line.
    """
    before = logging.root.manager.disable
    logging.disable(max(before, logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export_program(
    network: nn.Module, resolution: int, *, functional: bool = True
) -> tuple[ExportedProgram, str]:
    """Export a classifier in eval mode, behind its preprocessing, with a dynamic batch.

    Works on real and on fake tensors. Where torch.export refuses the network, the graph that
    torch.fx traces of it is exported instead; the second value says which was used and why.
    Without ``functional`` the in-place operators may stay and half the time is saved: enough to
    read shapes off, not to cut.

    Raises UserError where the network refuses the resolution, where neither tracer takes it, or
    where it is no classifier or keeps or draws something that two halves cannot share.
    """
    with torch_warnings_silenced():
        # Two images: an example batch of one would be taken for a constant.
        pixels = torch.zeros((2, 3, resolution, resolution), dtype=torch.uint8)
        try:
            program, tracer = _export(network, pixels), "torch.export"
        except Exception as error:  # torch.export raises many kinds, all about the network
            _refuse_if_eager_fails(network, pixels)
            program, tracer = _export_by_fx(network, pixels, error)
        _refuse_unsplittable(program, network)
        if functional or _may_write_to_buffers(program):
            program = program.run_decompositions({})
            _refuse_unsplittable(program, network)  # only now are writes to buffers told
            _refuse_if_traced_wrong(network, program, pixels)
        return program, tracer


def _export(network: nn.Module, pixels: Tensor) -> ExportedProgram:
    with redirect_stderr(StringIO()):  # where torch prints the graph of what it refuses
        return torch.export.export(
            PixelNetwork(network).eval(),
            (pixels,),
            # Unbounded, torch 2.5 and 2.6 refuse attention: the batch might be 2^63 - 1.
            dynamic_shapes=({0: Dim("batch", max=_IMAGES_AT_MOST)},),
            strict=False,  # the default from torch 2.7 on
        )


def _export_by_fx(
    network: nn.Module, pixels: Tensor, refusal: Exception
) -> tuple[ExportedProgram, str]:
    """Export what torch.fx traces, which leaves out what a module keeps on the side.

    Exporting the traced graph makes it functional: no in-place operator and no alias is left
    to cross a cut, and a size that torch.fx keeps as an integer becomes one of the batch.
    """
    why = f"{type(refusal).__name__}: {_first_line(refusal)}"
    try:
        graph = trace_by_fx(network.eval())
        program = _export(GraphNetwork(graph, network, None), pixels)
    except Exception as error:  # the user's own code: it may raise anything
        line = _line_in_model(refusal) or _line_in_model(error)
        raise UserError(
            f"model {type(network).__name__}: neither torch.export ({why}) nor torch.fx "
            f"({type(error).__name__}: {_first_line(error)}) can trace it"
            f"{f'; the line is {line}' if line else ''}; {_remedy(refusal)}"
        ) from error
    return program, f"torch.fx, because torch.export refuses the model ({why})"


def _refuse_if_traced_wrong(network: nn.Module, program: ExportedProgram, pixels: Tensor) -> None:
    """No tracer follows what Python keeps on the side, and torch.fx no alias: compare twice."""
    if isinstance(next(network.parameters(), None), FakeTensor):
        return  # a network without weights gives no values to compare
    images = torch.randint(0, 256, pixels.shape, generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    whole = PixelNetwork(network).eval()
    with torch.no_grad():
        got = _only_tensor(program.module()(images))
        for _ in range(2):  # the second time meets what the first has left behind
            if not _close(got, _only_tensor(whole(images))):
                raise UserError(
                    f"model {type(network).__name__}: what was traced gives other outputs than the "
                    "model: it keeps state between calls, reads a clock, or writes a value that "
                    "another name shows; make the output depend on the images and the weights alone"
                )


def _close(got: Tensor, expected: Tensor) -> bool:
    if isinstance(expected, FakeTensor):  # made of what tracing has left on the side
        return False
    bound = _TRACED_CLOSE * float(expected.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(got, expected, rtol=0, atol=bound, equal_nan=True)


def _only_tensor(output: Any) -> Tensor:
    """The logits, which a network may return within a tuple or a dict of one."""
    (tensor,) = tree_leaves(output)
    assert isinstance(tensor, Tensor), "as the graph's output was found to be"
    return tensor


def _remedy(refusal: Exception) -> str:
    if "Constraints violated" in str(refusal):
        return "the number of images must stay free: write x.shape[0] and do not branch on it"
    return (
        "what is computed must not depend on the values of tensors: replace the branch by "
        "torch.where or take another model"
    )


def _refuse_if_eager_fails(network: nn.Module, pixels: Tensor) -> None:
    weights = next(network.parameters(), None)
    try:
        with (
            torch.no_grad(),
            weights.fake_mode if isinstance(weights, FakeTensor) else nullcontext(),
        ):
            PixelNetwork(network).eval()(torch.zeros(pixels.shape, dtype=pixels.dtype))
    except Exception as error:  # the network says in its own way that an input does not fit
        raise UserError(
            f"model {type(network).__name__} refuses {pixels.shape[2]}x{pixels.shape[3]} images "
            f"({type(error).__name__}: {_first_line(error)}); leave the resolution out for the "
            "model's own, or take another model"
        ) from error


def _refuse_unsplittable(program: ExportedProgram, network: nn.Module) -> None:
    name = type(network).__name__
    signature = program.graph_signature
    value = last_output(program)
    value = value.meta["val"] if isinstance(value, torch.fx.Node) else value
    outputs = len(signature.user_outputs)
    logits = isinstance(value, Tensor) and value.dim() == 2 and value.dtype == torch.float32
    if outputs != 1 or not logits:
        raise UserError(
            f"model {name}: is no classifier; expected one output tensor (N, outputs) of float32, "
            f"got {f'{outputs} outputs' if outputs != 1 else _told(value)}; wrap it in a module "
            "that returns the logits alone"
        )
    if signature.buffers_to_mutate:
        raise UserError(
            f"model {name}: writes to its buffers while it infers "
            f"({', '.join(signature.buffers_to_mutate.values())}); the two halves would not "
            "share them: keep no state between queries"
        )
    for node in program.graph.nodes:
        if _draws(node):
            raise UserError(
                f"model {name}: draws random numbers while it infers ({node.target}); its halves "
                "would not agree with the whole: remove that in eval mode"
            )


def _may_write_to_buffers(program: ExportedProgram) -> bool:
    """Whether an in-place operator may write to the memory of a buffer."""
    buffers = program.graph_signature.inputs_to_buffers
    for node in program.graph.nodes:
        if getattr(getattr(node.target, "_schema", None), "is_mutable", False):
            written = tree_leaves(node.args[:1])  # one operator may write to a list of tensors
            if any(isinstance(n, torch.fx.Node) and _shown(n).name in buffers for n in written):
                return True
    return False


def _shown(node: torch.fx.Node) -> torch.fx.Node:
    """The node whose memory this one may show, through views and writes."""
    while node.op == "call_function" and node.args and _may_show_operand(node):
        (operand, *_) = tree_leaves(node.args)
        if not isinstance(operand, torch.fx.Node):
            break
        node = operand
    return node


def _may_show_operand(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)  # none: one of several results
    return schema is None or any(result.alias_info is not None for result in schema.returns)


def _told(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    sizes = ", ".join(str(size) if isinstance(size, int) else "N" for size in value.shape)
    return f"{value.dtype} ({sizes})"


def _draws(node: torch.fx.Node) -> bool:
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((argument.name for argument in schema), node.args, strict=False))
    given = {a.name: a.default_value for a in schema} | given | node.kwargs
    for mode in ("train", "training"):
        if mode in given:  # dropout and recurrent layers, which in eval mode draw nothing
            return bool(given[mode])
    return bool(given.get("dropout_p", True))  # attention's own, whatever the mode


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _line_in_model(error: BaseException) -> str | None:
    """File and line of the innermost frame that is neither torch's nor ours."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if not f.filename.startswith((*ours, "<"))]
    return f"{outside[-1].filename}:{outside[-1].lineno}" if outside else None
