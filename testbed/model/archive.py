"""The model as one archive that both ends load: a flat graph of operators and its weights.

Made by the orchestrator from an export, read with torch alone. ``torch.export``'s own file would do
for the first, but reading it imports torch's compiler and a computer algebra system: 140 MB and
seconds of a small device, for a graph whose sizes are known as soon as the batch is.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from testbed.errors import TestbedError, UserError
from testbed.records import sha256_file

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_SCHEMA_VERSION = 1
_NAMES_SHOWN = 3
_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
# Arguments that are names within torch: ``torch.float32`` and the like.
_NAMED: Mapping[str, type] = {
    "dtype": torch.dtype,
    "memory_format": torch.memory_format,
    "layout": torch.layout,
}


def save_archive(program: ExportedProgram, path: Path) -> str:
    """Write the archive whole or not at all; returns its SHA-256 in hex.

    Raises UserError where the network computes something that no flat graph can say.
    """
    from testbed.model.export import torch_warnings_silenced

    with torch_warnings_silenced():
        module = program.module()
    assert isinstance(module, fx.GraphModule)
    # The graph is functional: whatever nobody uses only checks.
    for node in reversed(module.graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            module.graph.erase_node(node)
    paths = dict.fromkeys(str(n.target) for n in module.graph.nodes if n.op == "get_attr")
    # Without dots in their names they are the attributes of one module and not of a tree, which
    # every head and tail would have a copy of.
    names = {path: f"weight_{index}" for index, path in enumerate(paths)}
    weights = {name: _weight(module, path) for path, name in names.items()}
    nodes = [_node_json(n, names) for n in module.graph.nodes if not is_size(n)]
    graph = {"schema_version": _SCHEMA_VERSION, "torch": torch.__version__, "nodes": nodes}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            torch.save({"graph": json.dumps(graph), "weights": weights}, stream)
        digest = sha256_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return digest


def at_images(size: int | torch.SymInt, images: int) -> int:
    """A size of an exported graph for that many images; UserError for one that values decide."""
    if isinstance(size, int):
        return size
    # Seconds to import, which a host that only reads archives does not need.
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    if free_unbacked_symbols(size):
        raise UserError(
            "model: how many elements a tensor has depends on the values of another (as in "
            "x[x > 0]); write it with torch.where or take another model"
        )
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, images)))


def last_output(program: ExportedProgram) -> Any:
    """The last of what the graph gives: a node, or a constant."""
    # ``Graph.output_node`` would say the same from torch 2.5 on.
    (node,) = (node for node in program.graph.nodes if node.op == "output")
    return node.args[0][-1]


def is_size(node: fx.Node) -> bool:
    """Whether a node computes a size, and no tensor."""
    return isinstance(node.meta.get("val"), torch.SymInt)


def _weight(module: fx.GraphModule, name: str) -> Tensor:
    value = operator.attrgetter(name)(module)
    if not isinstance(value, Tensor):
        raise UserError(
            f"model: holds {name}, a {type(value).__name__}, inside its graph; expected weights "
            "alone: write the network without torch.cond and the like"
        )
    return value  # a parameter stays one: operators round otherwise for a tensor that is none


def _node_json(node: fx.Node, weights: Mapping[str, str]) -> dict[str, Any]:
    value = node.meta.get("val")
    document: dict[str, Any] = {"name": node.name, "op": node.op}
    if isinstance(value, Tensor):
        document["value"] = {
            "shape": [_size_json(size) for size in value.shape],
            "strides": [_size_json(stride) for stride in value.stride()],
            "dtype": str(value.dtype).removeprefix("torch."),
        }
    if node.op == "placeholder":
        return document
    if node.op == "output":
        return {**document, "args": _argument_json(node.args)}
    if node.op == "get_attr":
        return {**document, "target": weights[str(node.target)]}
    if node.op != "call_function" or isinstance(value, _SYMBOLIC):
        raise UserError(
            f"model: computes {node.name} ({node.op} {node.target}), which is no operator on "
            "tensors; write the network without it or take another model"
        )
    return {
        **document,
        "target": _target_name(node.target),
        "args": _argument_json(node.args),
        "kwargs": {name: _argument_json(value) for name, value in node.kwargs.items()},
    }


def _size_json(size: int | torch.SymInt) -> Any:
    """A size, or [fixed part, part for each image] where it grows with the batch."""
    one, two, three = (at_images(size, images) for images in (1, 2, 3))
    if three - two != two - one:
        raise UserError(f"model: a size is {size} of the batch; expected one that grows evenly")
    return one if one == two else [2 * one - two, two - one]


def _target_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    name = getattr(target, "__name__", "")
    if getattr(operator, name, None) is target:
        return f"operator.{name}"
    raise UserError(f"model: calls {target}, which is no operator of torch; take another model")


def _argument_json(argument: Any) -> Any:
    if argument is None or isinstance(argument, bool | int | float | str):
        return argument
    if isinstance(argument, tuple | list):
        return [_argument_json(item) for item in argument]
    if isinstance(argument, fx.Node):
        if is_size(argument):
            return {"size": _size_json(argument.meta["val"])}
        return {"node": argument.name}
    if isinstance(argument, torch.device):
        return {"device": None}  # of the host that runs it
    for kind, of in _NAMED.items():
        if isinstance(argument, of):
            return {kind: str(argument).removeprefix("torch.")}
    raise UserError(
        f"model: an operator takes {argument!r}, a {type(argument).__name__}, which an archive "
        "cannot hold; take another model"
    )


def load_archive(path: Path, sha256: str, batch: int, device: torch.device) -> fx.GraphModule:
    """Read an archive back for one batch size, its weights on ``device``.

    Each node's ``meta["val"]`` is a tensor without memory that shows shape, strides and dtype.

    Raises TestbedError where the file is missing or another one, or where this host's torch
    cannot run what the exporting torch wrote (naming both versions).
    """
    if not path.is_file():
        raise TestbedError(f"{path}: no model archive; deploy it to this host again")
    if (actual := sha256_file(path)) != sha256:
        raise TestbedError(f"{path}: SHA-256 is {actual}, expected {sha256}; deploy it again")
    exporter = "of unknown version"
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        graph = json.loads(content["graph"])
        exporter = graph["torch"]
        if graph["schema_version"] > _SCHEMA_VERSION:
            raise ValueError(f"schema {graph['schema_version']}, expected {_SCHEMA_VERSION}")
        _refuse_unknown_operators(graph["nodes"])
        return fx.GraphModule(content["weights"], _Reader(batch, device).read(graph["nodes"]))
    except Exception as error:  # what this torch cannot read shows itself in many ways
        reason = str(error).strip().partition("\n")[0]
        raise TestbedError(
            f"{path}: torch {torch.__version__} cannot read the archive written by torch "
            f"{exporter} ({type(error).__name__}: {reason}); install that torch here, or "
            "take model.carry: library"
        ) from error


def _refuse_unknown_operators(nodes: Sequence[dict[str, Any]]) -> None:
    """Raises LookupError naming the operators that this torch does not have."""
    unknown = []
    for target in sorted({node["target"] for node in nodes if node["op"] == "call_function"}):
        try:
            _operator(target)
        except AttributeError:
            unknown.append(target)
    if unknown:
        more = ", …" if len(unknown) > _NAMES_SHOWN else ""
        raise LookupError(f"no operator {', '.join(unknown[:_NAMES_SHOWN])}{more}")


class _Reader:
    """Nodes of an archive back to a graph, sizes as constants of the batch."""

    def __init__(self, batch: int, device: torch.device) -> None:
        self._batch, self._device = batch, device
        self._made: dict[str, fx.Node] = {}
        self._graph = fx.Graph()

    def read(self, nodes: list[dict[str, Any]]) -> fx.Graph:
        for document in nodes:
            name, op = document["name"], document["op"]
            target = document.get("target", name)
            node = self._graph.create_node(
                op,
                _operator(target) if op == "call_function" else target,
                tuple(self._argument(document.get("args", []))),
                {k: self._argument(value) for k, value in document.get("kwargs", {}).items()},
                name,
            )
            if node.name != name:
                raise ValueError(f"node {name} became {node.name}; the split table names the first")
            if (value := document.get("value")) is not None:
                shape, strides = ([self._size(n) for n in value[k]] for k in ("shape", "strides"))
                dtype = getattr(torch, value["dtype"])
                node.meta["val"] = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
            self._made[name] = node
        return self._graph

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, list):
            return [self._argument(item) for item in argument]
        if not isinstance(argument, dict):
            return argument
        ((kind, value),) = argument.items()
        if kind == "node":
            return self._made[value]
        if kind == "size":
            return self._size(value)
        return self._device if kind == "device" else getattr(torch, value)

    def _size(self, size: int | list[int]) -> int:
        return size if isinstance(size, int) else size[0] + size[1] * self._batch


def _operator(target: str) -> Any:
    module, _, name = target.partition(".")
    return (
        getattr(operator, name) if module == "operator" else operator.attrgetter(target)(torch.ops)
    )
