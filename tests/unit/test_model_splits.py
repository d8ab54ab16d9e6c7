"""The published architectures' split points, and the block rule on small containers."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from testbed.model.blocks import find_blocks
from testbed.model.bottlenecks import find_bottlenecks
from testbed.model.export import export_program
from testbed.model.splits import split_table
from testbed.model.table import SplitTable


def table_of(network: nn.Module, resolution: int) -> SplitTable:
    return split_table(network, export_program(network, resolution)[0], "net", resolution)


PUBLISHED = {
    "efficientnet_b0": (224, 16, 15, {1: 0.5, 3: 0.2083, 5: 0.1042, 11: 0.0625}),
    "efficientnet_v2_s": (384, 40, 34, {6: 0.3333, 10: 0.1667, 25: 0.0833}),
    "timm:tf_efficientnetv2_b0": (224, 21, 20, {1: 0.6667, 3: 0.25, 5: 0.125, 13: 0.0625}),
    "regnet_y_400mf": (224, 16, 15, {1: 0.5417, 4: 0.2708, 10: 0.1432}),
    "timm:vit_tiny_patch16_224": (224, 12, 12, {0: 0.2513}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_bottlenecks(name: str) -> None:
    resolution, blocks, natural, compressive = PUBLISHED[name]
    found = find_bottlenecks(name, None)
    assert found.table.resolution == resolution
    assert (len(found.points), sum(p.natural for p in found.points)) == (blocks, natural)
    assert {p.index: round(p.ratio, 4) for p in found.points if p.compressive} == compressive
    assert [p.index for p in found.points] == list(range(blocks))
    assert list(found.head_shares) == sorted(found.head_shares)


class Unit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Stack(nn.Sequential):
    """Plain by the rule: it inherits Sequential's forward."""


class Chain(nn.Module):
    """Runs its children in order; a class of its own, so no plain container."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


def paths(network: nn.Module, *unexecuted: str) -> list[str]:
    executed = {name for name, _ in network.named_modules()} - set(unexecuted)
    return [path for path, _ in find_blocks(network, executed)]


def test_blocks_in_containers_win_over_direct_composites() -> None:
    net = Chain(stem=Unit(), body=Stack(Unit(), nn.Sequential(Unit(), Unit())), last=Unit())
    assert paths(net) == ["body.0", "body.1.0", "body.1.1"]


def test_direct_composites_else() -> None:
    assert paths(Chain(a=Unit(), pool=nn.MaxPool2d(1), b=Unit())) == ["a", "b"]


def test_a_single_composite_is_descended_into() -> None:
    net = Chain(stem=nn.Conv2d(3, 3, 1), encoder=Chain(layers=nn.Sequential(Unit(), Unit())))
    assert paths(net) == ["encoder.layers.0", "encoder.layers.1"]


def test_leaf_layers_last() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Linear(1, 1))
    assert paths(net) == ["0", "2"]


def test_what_is_not_executed_is_no_block() -> None:
    net = Chain(a=Unit(), aux=Unit(), b=Unit())
    assert paths(net, "aux", "aux.conv") == ["a", "b"]


def test_a_named_stack_between_two_blocks_counts_and_outside_them_does_not() -> None:
    net = nn.Sequential(Stack(nn.Conv2d(3, 3, 1)), Unit(), Stack(nn.Conv2d(3, 3, 1)), Unit())
    assert paths(Chain(features=net)) == ["features.1", "features.2", "features.3"]


def test_ends_of_the_table() -> None:
    net = Chain(body=nn.Sequential(Unit(), Unit()), flat=nn.Flatten(), head=nn.Linear(3 * 64, 5))
    table = table_of(net, 8)
    first, *inner, last = table.points
    assert (first.split, first.index, first.nodes, first.shapes) == (
        "offload",
        -1,
        (),
        ((3, 8, 8),),
    )
    assert [(p.split, p.ratio, p.natural, p.compressive) for p in inner] == [
        ("0", 1.0, False, False),
        ("1", 1.0, False, False),
    ]
    assert (last.split, last.index, last.shapes, table.outputs) == ("local", 2, ((5,),), 5)
    assert table.candidates("compressive") == ("offload", "local")
    assert inner[0].name == "body.0 (Unit)"
