"""Which modules of a network are its blocks: one rule for every architecture.

A *plain container* inherits its container's ``forward`` (Sequential, ModuleList, ModuleDict and
subclasses such as conv-norm-activation stacks). At a level, plain containers are flattened; the
blocks are the composite modules held in containers if there are at least two, else the direct
composites if at least two; a single composite is descended into; else the blocks are the leaf
layers (convolutions and pools). A family that leaves a choice gets the reading with more cuts:
a named plain container between two blocks of one container (DenseNet's transitions) counts too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class _Item:
    path: str
    module: nn.Module
    container: str | None  # path of the plain container that holds it, if one does


def find_blocks(network: nn.Module, executed: Collection[str]) -> tuple[tuple[str, nn.Module], ...]:
    """Path and module of each executed block, in order of registration.

    Args:
        network: the network as built.
        executed: paths of the modules that take part in inference (an auxiliary head does not).
    """
    level, at = network, ""
    while True:
        items = [item for item in _flatten(level, at, None) if item.path in executed]
        composites = [item for item in items if _is_composite(item.module)]
        held = [item for item in composites if item.container is not None]
        if len(held) >= 2:
            chosen = {item.path for item in held} | _between(held, items)
            return tuple((item.path, item.module) for item in items if item.path in chosen)
        if len(composites) >= 2:
            return tuple((item.path, item.module) for item in composites)
        if not composites:
            return tuple((i.path, i.module) for i in items if _is_layer(i.module))
        level, at = composites[0].module, composites[0].path + "."


def _is_plain(module: nn.Module) -> bool:
    return any(
        isinstance(module, kind) and type(module).forward is kind.forward for kind in _CONTAINERS
    )


def _is_composite(module: nn.Module) -> bool:
    return not _is_plain(module) and any(True for _ in module.children())


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) or "Pool" in type(module).__name__


def _flatten(module: nn.Module, prefix: str, container: str | None) -> Iterator[_Item]:
    """All children with plain containers opened; a named container is listed before its content."""
    for name, child in module.named_children():
        path = prefix + name
        if not _is_plain(child):
            yield _Item(path, child, container)
            continue
        if type(child) not in _CONTAINERS:
            yield _Item(path, child, container)
        yield from _flatten(child, path + ".", path)


def _between(held: list[_Item], items: list[_Item]) -> set[str]:
    """Named plain containers without composites between two blocks of the same container."""
    paths = [item.path for item in items]
    found = set()
    for item in items:
        siblings = [paths.index(h.path) for h in held if h.container == item.container]
        if _is_plain(item.module) and siblings:
            inside = any(h.path.startswith(item.path + ".") for h in held)
            if not inside and min(siblings) < paths.index(item.path) < max(siblings):
                found.add(item.path)
    return found
