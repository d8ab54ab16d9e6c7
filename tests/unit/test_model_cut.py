"""Heads and tails of small real networks: equal to the whole, sharing weights, hurting nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from testbed.errors import TestbedError, UserError
from testbed.model.archive import load_archive, save_archive
from testbed.model.cut import cut
from testbed.model.engine import Engine
from testbed.model.export import export_program
from testbed.model.options import Options, fold_batch_norms
from tests.unit.exported import exported

RESOLUTION = 32
NORM = torch.ops.aten._native_batch_norm_legit_no_training.default


class Residual(nn.Module):
    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        out += x
        return self.act(out)


class Concat(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.left = nn.Conv2d(channels, channels, 1, stride=2)
        self.right = nn.Sequential(nn.AvgPool2d(2), nn.SiLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)


class ChannelsLast(nn.Module):
    """Leaves its output in another memory layout, as ConvNeXt's blocks do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mix = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU6(inplace=True))
        self.stages = nn.Sequential(
            nn.Sequential(Residual(8, nn.ReLU6(inplace=True)), Residual(8, nn.Hardswish())),
            nn.Sequential(Concat(8), Residual(16, nn.ReLU(inplace=True)), ChannelsLast(16)),
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        return self.head(x.mean((2, 3)).view(x.shape[0], -1))


class Skip(Tiny):
    """A skip over the first stage: no cut inside it is a single tensor."""

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        x = self.stages[1](self.stages[0](stem) + stem)
        return self.head(x.mean((2, 3)))


class Case:
    def __init__(self, network: nn.Module, path: Path) -> None:
        torch.manual_seed(0)
        self.network = network.eval()
        made = exported(network, path, RESOLUTION)
        self.archive, self.sha256, self.table = made.archive, made.archive_sha256, made.table
        self.splits = [point.split for point in self.table.points]

    def graph(self, batch: int) -> fx.GraphModule:
        return load_archive(self.archive, self.sha256, batch, torch.device("cpu"))

    def engine(self, batch: int, options: Options | None = None) -> Engine:
        return Engine(
            self.archive, self.sha256, self.table, self.splits, batch=batch, options=options
        )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(Tiny(), tmp_path_factory.mktemp("tiny") / "model.archive")


def pixels(batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    shape = (batch, 3, RESOLUTION, RESOLUTION)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def eager(network: nn.Module, x: Tensor) -> Tensor:
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.inference_mode():
        return network((x.float() / 255 - mean) / std)


@pytest.mark.parametrize("batch", [1, 3])
def test_every_split_equals_the_eager_model(tiny: Case, batch: int) -> None:
    engine = tiny.engine(batch)
    x = pixels(batch)
    before = x.clone()
    assert torch.equal(engine.whole(x), eager(tiny.network, x))
    assert engine.check(x) == dict.fromkeys(tiny.splits, True)
    assert torch.equal(x, before)
    assert tiny.splits == ["offload", "0", "1", "2", "3", "4", "local"]


@pytest.mark.parametrize(
    "options",
    [
        Options(fold_batchnorm=True),
        Options(channels_last=True),
        Options(channels_last=True, fold_batchnorm=True),
    ],
)
def test_options_stay_close_and_splits_exact(tiny: Case, options: Options) -> None:
    engine = tiny.engine(2, options)
    x = pixels(2)
    assert engine.check(x) == dict.fromkeys(tiny.splits, True)
    found = engine.closeness(x, tiny.engine(2))
    assert found["top1"]
    assert found["max_abs"] < 1e-4 * found["largest"]


def test_folding_leaves_out_every_norm_behind_a_convolution_of_its_own(tiny: Case) -> None:
    graph = tiny.graph(1)
    norms = graph.graph.find_nodes(op="call_function", target=NORM)
    assert len(norms) == 3
    kept = norms[0].args[0].name
    weights = len(list(graph.parameters()))
    fold_batch_norms(graph, {kept})
    left = graph.graph.find_nodes(op="call_function", target=NORM)
    assert [norm.args[0].name for norm in left] == [kept]
    # Of each norm folded, its scale and shift; of each convolution, nothing.
    assert len(list(graph.parameters())) == weights - 4
    graph.graph.lint()


def test_what_is_not_close_is_refused(tiny: Case) -> None:
    engine = tiny.engine(1, Options(fold_batchnorm=True))
    plain = tiny.engine(1)
    plain.whole = lambda x: tiny.engine(1).whole(x) * 1.01  # type: ignore[method-assign]
    with pytest.raises(UserError, match="logits differ from the plain engine's"):
        engine.closeness(pixels(1), plain)


def test_the_check_can_fail(tiny: Case) -> None:
    engine = tiny.engine(1)
    with pytest.raises(RuntimeError):
        engine.tail("2", engine.head("2", pixels(1))[:, :4])
    piece, calls = engine._pieces[2], count()
    engine._pieces[2] = lambda *tensors: tuple(t + next(calls) for t in piece(*tensors))
    assert not any(engine.check(pixels(1)).values())


def test_what_crosses_has_the_tables_shape(tiny: Case) -> None:
    engine = tiny.engine(3)
    for point in tiny.table.points:
        crossing = engine.head(point.split, pixels(3))
        assert tuple(crossing.shape) == (3, *point.shapes[0])
        assert crossing.dtype == (torch.uint8 if point.split == "offload" else torch.float32)


def test_a_tail_gives_the_same_for_the_same_bytes_again(tiny: Case) -> None:
    engine = tiny.engine(1)
    for split in tiny.splits[1:-1]:
        crossing = engine.head(split, pixels(1)).contiguous()
        first = engine.tail(split, crossing.clone())
        engine.head(split, pixels(1).flip(0, 3))
        assert torch.equal(engine.tail(split, crossing.clone()), first)


def test_all_pieces_run_on_one_set_of_weights(tiny: Case) -> None:
    engine = tiny.engine(1)
    assert len(engine._pieces) == len(tiny.splits) - 1
    assert len({id(piece.args[0]) for piece in engine._pieces}) == 1


def test_head_and_tail_return_when_the_accelerator_has_finished(tiny: Case) -> None:
    engine, x = tiny.engine(1), pixels(1)
    finished: list[str] = []
    engine._finish = lambda: finished.append("")
    tensor = engine.head("1", x)
    assert len(finished) == 1
    engine.tail("1", tensor)
    engine.head("local", x)
    engine.tail("offload", x)
    assert len(finished) == 4


def test_activations_are_put_back_in_place_and_nothing_shared_is(tiny: Case) -> None:
    graph = tiny.graph(1)
    for points in ([], tiny.table.points[1:-1]):
        pieces, _ = cut(graph, points)
        nodes = [node for piece in pieces for node in piece.graph.nodes]
        targets = [str(node.target) for node in nodes]
        assert "aten.hardtanh_.default" in targets  # the stem's, on a convolution's output
        # Its operand comes from a pool, which is not known as fresh.
        assert "aten.silu_.default" not in targets
        for node in nodes:
            if str(node.target).split(".")[-2:-1] and str(node.target).split(".")[-2].endswith("_"):
                assert len(node.args[0].users) == 1


def test_sizes_are_constants_of_the_batch(tiny: Case) -> None:
    nodes = tiny.graph(3).graph.nodes
    (source,) = (n for n in nodes if n.op == "placeholder")
    assert source.meta["val"].shape == (3, 3, RESOLUTION, RESOLUTION)
    views = [n for n in nodes if str(n.target) == "aten.view.default"]
    assert any(view.args[1][0] == 3 for view in views)


def test_a_cut_of_two_tensors_is_not_offered(tmp_path: Path) -> None:
    case = Case(Skip(), tmp_path / "skip.archive")
    assert case.splits == ["offload", "0", "1", "2", "local"]
    assert all(case.engine(1).check(pixels(1)).values())


def test_a_table_of_another_archive_is_refused(tiny: Case) -> None:
    points = tuple(replace(p, nodes=("elsewhere",)) for p in tiny.table.points)
    table = replace(tiny.table, points=points)
    with pytest.raises(TestbedError, match="another archive"):
        Engine(tiny.archive, tiny.sha256, table, ["1"], batch=1)
    module = tiny.graph(1)
    inside = next(n.name for n in module.graph.nodes if n.name.startswith("conv2d_1"))
    with pytest.raises(TestbedError, match="alone does not make"):
        cut(module, [replace(tiny.table["1"], nodes=(inside,))])


def test_an_altered_or_unreadable_archive_is_refused(tiny: Case, tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(TestbedError, match="SHA-256"):
        load_archive(tiny.archive, "0" * 64, 1, cpu)
    with pytest.raises(TestbedError, match="no model archive"):
        load_archive(tmp_path / "none", tiny.sha256, 1, cpu)
    content = torch.load(tiny.archive, weights_only=True)
    for old, new, reason in (
        (
            "aten.conv2d.default",
            "aten.conv9d.default",
            r"torch \S+ cannot read .* written by torch \S+ .*no operator aten.conv9d.default\); "
            "install that torch here",
        ),
        ('"schema_version": 1', '"schema_version": 99', "schema 99"),
        ("conv2d_1", "conv2d", "became"),
    ):
        altered = tmp_path / "altered"
        torch.save({**content, "graph": content["graph"].replace(old, new)}, altered)
        digest = hashlib.sha256(altered.read_bytes()).hexdigest()
        with pytest.raises(TestbedError, match=reason):
            load_archive(altered, digest, 1, cpu)


def test_one_network_gives_one_archive(tiny: Case, tmp_path: Path) -> None:
    program, _ = export_program(tiny.network, RESOLUTION)
    assert save_archive(program, tmp_path / "again") == tiny.sha256


class NoFlatGraph(Tiny):
    def __init__(self, part: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(super().forward(x))


def by_condition(x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y * 3, (x,))


def across_images(x: Tensor) -> Tensor:
    return x * torch.ones(x.shape[0] * x.shape[0], 10).sum()


@pytest.mark.parametrize(
    ("part", "reason"), [(by_condition, "inside its graph"), (across_images, "evenly")]
)
def test_what_no_flat_graph_can_say_is_refused(part: Any, reason: str, tmp_path: Path) -> None:
    program, _ = export_program(NoFlatGraph(part), RESOLUTION)
    with pytest.raises(UserError, match=reason):
        save_archive(program, tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_a_network_with_two_outputs_is_no_classifier() -> None:
    class Two(Tiny):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            y = super().forward(x)
            return y, y + 1

    with pytest.raises(UserError, match="no classifier"):
        export_program(Two(), RESOLUTION)


def test_a_network_that_export_refuses_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="refuses 32x32 images"):
        export_program(nn.Linear(7, 3), RESOLUTION)
