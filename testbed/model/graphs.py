"""Networks that exist as a traced graph: exported files, and what only torch.fx can trace."""

from __future__ import annotations

import importlib
import logging
import operator
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.traceback import preserve_node_meta

from testbed.errors import UserError


class GraphNetwork(nn.Module):
    """Runs a traced graph node by node, so that tracing it again keeps the module paths.

    ``tree`` holds the modules that the graph was traced from, for the block rule; the graph alone
    is run. With a ``resolution``, images of another one are refused.
    """

    def __init__(self, graph: fx.GraphModule, tree: nn.Module, resolution: int | None) -> None:
        super().__init__()
        self.graph = graph
        self._tree = (tree,)  # a tuple: no submodule, its parameters would count twice
        self._resolution = resolution

    @property
    def tree(self) -> nn.Module:
        """The module tree behind the graph."""
        return self._tree[0]

    def train(self, mode: bool = True) -> GraphNetwork:
        """Nothing to switch: the graph was traced in eval mode."""
        return self

    def forward(self, images: Tensor) -> Any:
        """The graph's output of normalised images ``(N, 3, H, W)``."""
        expected = self._resolution
        if expected is not None and tuple(images.shape[2:]) != (expected, expected):
            raise ValueError(f"the file was exported for {expected}x{expected} images")
        with preserve_node_meta():
            return fx.Interpreter(self.graph).run(images)


def _written(operator_: Callable[[Any, Any], Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    def write(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator_, (self, other), {})

    return write


class _WritingProxy(fx.Proxy):
    """Records ``x += y`` as the write it is; torch.fx's own would trace ``x = x + y``."""

    __iadd__ = _written(operator.iadd)
    __isub__ = _written(operator.isub)
    __imul__ = _written(operator.imul)
    __itruediv__ = _written(operator.itruediv)


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _WritingProxy(node, self)


def trace_by_fx(network: nn.Module) -> fx.GraphModule:
    """What torch.fx sees of a network; what only looked at a tensor (a value logged) is dropped.

    Writes stay, used or not: something else may show the memory they write to.
    """
    graph = _Tracer().trace(network)
    for node in reversed(graph.nodes):
        reads = node.op == "call_method" and not str(node.target).endswith("_")
        if reads and not node.users:
            graph.erase_node(node)
    return fx.GraphModule(network, graph)


def module_tree(network: nn.Module) -> nn.Module:
    """The modules of which the block rule chooses."""
    return network.tree if isinstance(network, GraphNetwork) else network


def load_exported(path: Path) -> GraphNetwork:
    """A classifier saved by ``torch.export.save``, with its weights.

    Raises UserError where the file is none, or its input is not float32 ``(N, 3, H, H)`` with a
    dynamic batch.
    """
    program = _read(path)
    resolution = _resolution_of(program, path)
    graph = program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    for node in reversed(graph.graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.graph.erase_node(node)  # an assertion about the traced batch
    graph.recompile()
    return GraphNetwork(graph, _skeleton(program.graph.nodes), resolution)


def exported_resolution(path: Path) -> int:
    """Height and width that an exported file takes."""
    return _resolution_of(_read(path), path)


def _read(path: Path) -> ExportedProgram:
    if not path.is_file():
        raise UserError(f"model.name: export:{path}: no such file")
    logging.disable(logging.WARNING)  # torch logs the tracebacks of what it raises then
    try:
        return torch.export.load(path)
    except Exception as error:  # a file that is none shows itself in many ways
        reason = str(error).strip().partition("\n")[0].partition(" Please check the warnings")[0]
        raise UserError(
            f"model.name: export:{path}: torch {torch.__version__} cannot read it "
            f"({type(error).__name__}: {reason}); write it with torch.export.save"
        ) from error
    finally:
        logging.disable(logging.NOTSET)


def _resolution_of(program: ExportedProgram, path: Path) -> int:
    names = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.name in names]
    if len(values) == 1 and isinstance(values[0], Tensor) and values[0].dtype == torch.float32:
        batch, *sample = values[0].shape
        if type(batch) is not int and len(sample) == 3 and sample[1] == sample[2]:
            return int(sample[1])
    told = [f"{v.dtype} {tuple(v.shape)}" if isinstance(v, Tensor) else str(v) for v in values]
    raise UserError(
        f"model.name: export:{path}: expected one input torch.float32 (batch, 3, H, H) with a "
        f"dynamic batch, got {', '.join(told)}; export with dynamic_shapes={{0: Dim('batch')}}"
    )


def _skeleton(nodes: Iterable[fx.Node]) -> nn.Module:
    """The executed modules by path and class, without weights, from ``nn_module_stack``."""
    root = nn.Module()
    for node in nodes:
        for path, kind in node.meta.get("nn_module_stack", {}).values():
            at = root
            *parents, name = path.partition("@")[0].split(".")
            for parent in parents:
                at = at._modules.setdefault(parent, nn.Module())  # type: ignore[assignment]
            if name and name not in at._modules:
                at.add_module(name, _empty(kind))
    return root


def _empty(kind: Any) -> nn.Module:
    """A module of the class named, or of an unknown one with its name where it is not here."""
    module_name, _, name = str(kind).rpartition(".")
    try:
        known = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError):
        known = None
    if not (isinstance(known, type) and issubclass(known, nn.Module)):
        known = type(name, (nn.Module,), {})
    empty: nn.Module = known.__new__(known)
    nn.Module.__init__(empty)
    return empty
