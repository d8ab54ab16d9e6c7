"""Random small networks, cut at every place: each tail of each head is the whole, bit for bit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from testbed.errors import UserError
from testbed.model.archive import save_archive
from testbed.model.engine import Engine
from testbed.model.export import export_program
from testbed.model.splits import LAYER, split_table
from testbed.model.table import SplitTable
from tests.unit.exported import exported

RESOLUTION, CHANNELS = 8, 4
STEPS = (
    *("conv", "shared_conv", "norm", "relu_in_place", "silu", "add", "add_in_place", "concat"),
    *("split", "tuple_block", "skip_in_place", "channels_last", "scaled", "alias", "sequence"),
)


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, 2 * CHANNELS, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        left, right = self.conv(x).chunk(2, 1)
        return left, {"right": right}


class Random(nn.Module):
    """Runs its steps in order; each may reach back to anything made before."""

    scale: Tensor

    def __init__(self, steps: list[tuple[str, int]], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.steps = steps
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.shared = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.own = nn.ModuleList(self._module(kind) for kind, _ in steps)
        self.register_buffer("scale", torch.rand(1, CHANNELS, 1, 1) + 0.5)
        self.head = nn.Linear(CHANNELS, 5)

    def _module(self, kind: str) -> nn.Module:
        if kind == "conv":
            return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        if kind == "norm":
            return nn.BatchNorm2d(CHANNELS)
        if kind == "concat":
            return nn.Conv2d(2 * CHANNELS, CHANNELS, 1)
        if kind == "sequence":
            return nn.MultiheadAttention(CHANNELS, 2)  # the batch is its second dimension
        return TwoOutputs() if kind == "tuple_block" else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        made = [self.stem(images)]
        for (kind, back), own in zip(self.steps, self.own, strict=True):
            made.append(self._step(kind, own, made[-1], made[back % len(made)]))
        return self.head(made[-1].mean((2, 3)))

    def _step(self, kind: str, own: nn.Module, x: Tensor, other: Tensor) -> Tensor:
        match kind:
            case "shared_conv":
                return self.shared(x)
            case "relu_in_place":
                return F.relu_(x + 0.1)
            case "silu":
                return F.silu(x)
            case "add":
                return x + other
            case "add_in_place":
                y = x * 0.5
                y += other
                return y
            case "concat":
                return own(torch.cat([x, other], 1))
            case "split":
                first, second = x.split(CHANNELS // 2, 1)
                return torch.cat([second.tanh(), first], 1)
            case "tuple_block":
                left, named = own(x)
                return left * named["right"].sigmoid()
            case "skip_in_place":
                return x.relu_()  # overwrites what a later step may reach back to
            case "channels_last":
                return F.layer_norm(x.permute(0, 2, 3, 1), (CHANNELS,)).permute(0, 3, 1, 2)
            case "scaled":
                return x * self.scale * x.shape[2]
            case "alias":
                half = x[:, ::2]
                half *= 0.5
                return x
            case "sequence":
                tokens = x.flatten(2).permute(2, 0, 1)
                mixed = own(tokens, tokens, tokens, need_weights=False)[0]
                return mixed.permute(1, 2, 0).reshape(x.shape)
        return own(x)


def check_every_cut(network: nn.Module, batch: int) -> SplitTable:
    """Head, copy, tail, twice on the same pixels, against the eager network."""
    program, tracer = export_program(network, RESOLUTION)
    table = split_table(network, program, "random", RESOLUTION, LAYER, tracer)
    pixels = torch.randint(0, 256, (batch, 3, RESOLUTION, RESOLUTION), dtype=torch.uint8)
    before = pixels.clone()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.inference_mode():
        expected = network((pixels.float() / 255 - mean) / std)
    for candidates in ("all", ["0"], table.candidates("all")[2:-1:3]):
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "model"
            sha256 = save_archive(program, archive)
            cuts = table.candidates(candidates)
            engine = Engine(archive, sha256, table, cuts, batch=batch)
        assert torch.equal(engine.whole(pixels), expected)
        for split in cuts[1:-1]:
            point = table[split]
            for _ in range(2):
                out = engine.head(split, pixels)
                crossing = out if isinstance(out, tuple) else (out,)
                assert [tuple(t.shape) for t in crossing] == [(batch, *s) for s in point.shapes]
                sent = [t.clone(memory_format=torch.contiguous_format) for t in crossing]
                tail = engine.tail(split, tuple(sent) if len(sent) > 1 else sent[0])
                assert torch.equal(tail, expected), (split, point.name)
    assert torch.equal(pixels, before)
    return table


step = st.tuples(st.sampled_from(STEPS), st.integers(0, 20))


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # an example takes half a second: shrinking one would take minutes
)
@given(st.lists(step, min_size=3, max_size=7), st.integers(0, 99), st.sampled_from([1, 3]))
def test_every_cut_of_a_random_network_is_exact(
    steps: list[tuple[str, int]], seed: int, batch: int
) -> None:
    assert len(check_every_cut(Random(steps, seed).eval(), batch).points) > 3


def test_every_kind_of_step_at_once() -> None:
    table = check_every_cut(Random([(kind, 1) for kind in STEPS], 0).eval(), 2)
    assert any(len(point.nodes) == 3 for point in table.points)
    assert table.candidates("all") == tuple(point.split for point in table.points)
    assert all(point.ratio == point.elements / (3 * RESOLUTION**2) for point in table.points[:-1])


class Watched(Random):
    """Looks at an address on the side, which torch.export does not take."""

    def _step(self, kind: str, own: nn.Module, x: Tensor, other: Tensor) -> Tensor:
        self.seen = x.data_ptr()
        return super()._step(kind, own, x, other)


def test_what_only_fx_traces_is_cut_as_exactly() -> None:
    steps = [(kind, 0) for kind in ("conv", "skip_in_place", "add_in_place", "alias", "split")]
    table = check_every_cut(Watched(steps, 1).eval(), 2)
    assert table.tracer.startswith("torch.fx, because torch.export refuses the model (")
    assert any(point.name.startswith("own.0") for point in table.points)


class Windows(nn.Module):
    """Parts and views of a tensor, and one number for each image, stay in use across cuts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        part, total = x[:, :2], x.sum((1, 2, 3))
        rolling = self.second(x).unfold(2, 3, 1)
        logits = F.relu(part).mean((2, 3)) + part.mean((2, 3)) + total[:, None]
        return logits + rolling.mean((2, 3, 4))


def test_parts_keep_the_memory_layout_that_they_had() -> None:
    table = check_every_cut(Windows().eval(), 3)
    assert any(() in point.shapes and len(point.shapes) == 3 for point in table.points)
    # Windows of three rows overlap: what is sent are the rows.
    assert {shape for point in table.points for shape in point.shapes if len(shape) > 3} == set()


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


class Branches(Plain):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if y.sum() > 0:
            y = y + 1
        return y


class FixesBatch(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).view(len(x), 4)


class Counts(Plain):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.seen += y.sum(0)
        return y


class CountsTogether(Plain):
    def forward(self, x: Tensor) -> Tensor:
        torch._foreach_add_([self.seen.view(-1)], 1)
        return super().forward(x)


class Draws(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x))


class Recurrent(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.LSTM(4, 6, num_layers=2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(self.conv(x).mean(2).transpose(1, 2))[0].mean(1)


class Attends(Plain):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).mean(3).transpose(1, 2)
        return F.scaled_dot_product_attention(y, y, y, dropout_p=0.5).mean(1)


class Remembers(Plain):
    last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        before, self.last = self.last, y.mean(0).detach()
        return y if before is None else y + before


class Ages(Plain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.conv.weight.mul_(0.9)
        return super().forward(x)


class Ignores(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(x.shape[0], 4)


class Chooses(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x[x > 0].mean()


class Spectrum(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(super().forward(x))


def test_a_recurrent_layer_with_dropout_draws_nothing_in_eval_mode(tmp_path: Path) -> None:
    made = exported(Recurrent(), tmp_path / "recurrent.archive", RESOLUTION, LAYER)
    splits = made.table.candidates("all")
    engine = Engine(made.archive, made.archive_sha256, made.table, splits, batch=2)
    x = torch.randint(0, 256, (2, 3, RESOLUTION, RESOLUTION), dtype=torch.uint8)
    assert all(engine.check(x).values())
    assert len(splits) > 4


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            Branches,
            r"neither torch\.export.* nor torch\.fx.*the line is .*fuzz\.py:\d+; .*torch.where",
        ),
        (FixesBatch, r"the line is .*fuzz\.py:\d+; the number of images must stay free"),
        (Counts, r"writes to its buffers while it infers \(network\.seen\)"),
        (Draws, r"draws random numbers while it infers \(aten\.dropout"),
        (Attends, r"draws random numbers while it infers \(aten\.scaled_dot_product"),
        (Remembers, "gives other outputs than the model: it keeps state between calls"),
        (Ages, "gives other outputs than the model: it keeps state between calls"),
        (Ignores, "does not depend on the images"),
        (Chooses, "how many elements a tensor has depends on the values"),
        (Spectrum, r"of float32, got torch\.complex64 \(N, 4\)"),
    ],
)
def test_what_cannot_be_cut_right_is_refused_by_name(
    network: type[nn.Module], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    made = network().eval()
    with pytest.raises(UserError, match=message):
        split_table(made, export_program(made, RESOLUTION)[0], "made", RESOLUTION, LAYER)
    assert not capfd.readouterr().err  # the error's one line is all


@pytest.mark.parametrize("network", [Counts, CountsTogether, Draws])
def test_what_draws_or_writes_has_no_bottlenecks_either(network: type[nn.Module]) -> None:
    with pytest.raises(UserError, match="while it infers"):
        export_program(network().eval(), RESOLUTION, functional=False)
