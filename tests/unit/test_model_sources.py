"""Where networks come from: libraries, a person's own code, exported files; and their weights."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

from testbed.cli import main
from testbed.config.experiment import ModelSpec
from testbed.errors import UserError
from testbed.model import zoo
from testbed.model.bottlenecks import find_bottlenecks
from testbed.model.cache import prepare
from testbed.model.engine import Engine

OWN = """
import os
from torch import nn

class Block(nn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, 3, stride, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.conv(x))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(Block(3, 8, 2), Block(8, 12, 2), Block(12, 12, 1))
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

def build():
    print("a net")  # not into the document of --json
    return Net()

def wide():
    net = Net()
    net.head = nn.Linear(12, int(os.environ["WIDTH"]))
    return net

def broken():
    raise ValueError("no data here")

class Fixed(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12 * 8 * 8, 4)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))

class Says(Net):
    said = None

    def forward(self, x):
        super().forward(x)
        return self.said

def sized():
    return Fixed()

def silent():
    return Says()

def wordy():
    net = Says()
    net.said = "a cat"
    return net

number = int
"""
RESOLUTION = 32


@pytest.fixture(autouse=True)
def _own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)


def check_engine(name: str, cache: Path, granularity: str = "block") -> list[str]:
    spec = ModelSpec(name=name, resolution=RESOLUTION, granularity=granularity)
    prepared = prepare(spec, cache)
    table = prepared.table
    splits = [point.split for point in table.points]
    engine = Engine(prepared.archive, prepared.archive_sha256, table, splits, batch=2)
    pixels = torch.randint(0, 256, (2, *table.input_shape), dtype=torch.uint8)
    assert engine.check(pixels) == dict.fromkeys(splits, True)
    return [point.name for point in table.points[1:-1]]


def test_a_persons_own_code_and_its_export_have_the_same_blocks(tmp_path: Path) -> None:
    blocks = [f"body.{n} (Block)" for n in range(3)]
    assert check_engine("python:own_nets:build", tmp_path / "cache") == blocks
    network = zoo.build("python:own_nets:build", "random", 3, RESOLUTION)
    program = torch.export.export(
        network,
        (torch.zeros(2, 3, RESOLUTION, RESOLUTION),),
        dynamic_shapes=({0: Dim("batch")},),
    )
    torch.export.save(program, "own.pt2")
    assert zoo.native_resolution("export:own.pt2") == RESOLUTION
    assert check_engine("export:own.pt2", tmp_path / "cache") == blocks
    with pytest.raises(UserError, match="was exported for 32x32 images"):
        find_bottlenecks("export:own.pt2", 64)
    with pytest.raises(UserError, match="brings its own"):
        zoo.build("export:own.pt2", "own.pt2", 0, RESOLUTION)


def test_own_code_is_exported_each_time_and_kept_by_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, cache = ModelSpec(name="python:own_nets:wide", resolution=RESOLUTION), tmp_path / "cache"
    found = []
    for width in ("4", "6", "4"):
        monkeypatch.setenv("WIDTH", width)
        found.append(prepare(spec, cache))
    assert found[0] == found[2] != found[1]
    assert [prepared.archive.is_file() for prepared in found] == [True, True, True]


def test_layers_of_a_persons_own_code(tmp_path: Path) -> None:
    names = check_engine("python:own_nets:build", tmp_path / "cache", "layer")
    assert names[:3] == ["body.0.conv (conv2d)", "body.0.act (relu)", "body.1.conv (conv2d)"]
    assert names[-1].endswith("(mean)")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("keras:resnet", r"expected torchvision:NAME, timm:NAME, python:.* got 'keras:resnet'"),
        ("timm:resnet5o", "unknown model 'resnet5o'; did you mean resnet5"),
        ("python:no_such_package:build", "ModuleNotFoundError"),
        ("python:own_nets:nothing", "AttributeError.*nothing"),
        ("python:own_nets:broken", "ValueError: no data here"),
        ("python:own_nets:number", "expected an nn.Module, got int"),
        ("export:none.pt2", "no such file"),
        ("export:own_nets.py", "cannot read it"),
        ("alexnet", r"AlexNet refuses 32x32 images \(RuntimeError: .*too small"),
    ],
)
def test_names_that_lead_nowhere(name: str, message: str, caplog: pytest.LogCaptureFixture) -> None:
    loggers = [logging.getLogger("torch.export"), logging.getLogger("torch._subclasses")]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    with pytest.raises(UserError, match=message):
        find_bottlenecks(name, RESOLUTION)
    for logger in loggers:
        logger.removeHandler(caplog.handler)
    logged = [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert not logged  # the error's one line is all


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("name: efficientnet_b9", "model.name: unknown model 'efficientnet_b9'; did you mean"),
        ("name: python:own_nets:sized, resolution: 64", "refuses 64x64 images"),
        ("name: mobilenet_v2, resolution: 32, weights: none.pt", "neither 'random', nor a file"),
        ("name: python:own_nets:build, weights: own.pt", "1 missing: head.bias; 1 unexpected: b"),
        ("name: python:own_nets:build, weights: junk.pt", "is no state dict of this model"),
        ("name: export:own.pt2, carry: library", "export:own.pt2 has no library"),
        (
            "name: python:own_nets:silent",
            "expected one output tensor (N, outputs) of float32, got NoneType",
        ),
        ("name: python:own_nets:wordy", "(N, outputs) of float32, got str"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line_and_leaves_nothing(
    model: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path.cwd() / "cache"))
    state = zoo.build("python:own_nets:build", "random", 0, RESOLUTION).state_dict()
    state["b"] = state.pop("head.bias")
    torch.save(state, "own.pt")
    Path("junk.pt").write_text("junk")
    if "resolution" not in model:
        model += ", resolution: 32"
    Path("bad.yaml").write_text(
        f"{{schema_version: 1, name: bad, model: {{{model}}}, policies: [local],\n"
        "links: {lab: {uplink: {rate: 8mbit}, downlink: {rate: 8mbit}}}}\n"
    )
    hosts = "{device: {roles: [device]}, server: {roles: [server]}}"
    Path("hosts.yaml").write_text(f"{{schema_version: 1, lab: local, hosts: {hosts}}}\n")
    assert main(["run", "bad.yaml", "-i", "hosts.yaml"]) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("testbed: ")]
    assert told in line
    assert not Path("results").exists()
    assert not [path for path in Path("cache").rglob("*") if path.is_file()]


def test_an_export_of_one_image_is_refused() -> None:
    program = torch.export.export(nn.Flatten(), (torch.zeros(1, 3, 8, 8),))
    torch.export.save(program, "one.pt2")
    with pytest.raises(UserError, match=r"with a dynamic batch, got torch.float32 \(1, 3, 8, 8\)"):
        zoo.native_resolution("export:one.pt2")


def test_weights_that_do_not_fit_name_the_first_keys(tmp_path: Path) -> None:
    state = zoo.build("python:own_nets:build", "random", 0, RESOLUTION).state_dict()
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    again = zoo.build("python:own_nets:build", str(path), 9, RESOLUTION)
    assert torch.equal(again.state_dict()["head.bias"], state["head.bias"])
    state["head.bias"] = state["head.bias"][:2]
    state["tail.bias"] = state.pop("body.0.conv.bias")
    torch.save(state, path)
    fault = "1 missing: body.0.conv.bias; 1 unexpected: tail.bias; 1 of another shape: head.bias"
    with pytest.raises(UserError, match=rf"\({fault}\)"):
        zoo.build("python:own_nets:build", str(path), 0, RESOLUTION)
    torch.save(nn.Flatten(), path)
    with pytest.raises(UserError, match=r"\(UnpicklingError: Weights only load failed\)"):
        zoo.build("python:own_nets:build", str(path), 0, RESOLUTION)


def test_native_resolutions_are_those_of_the_published_results() -> None:
    assert zoo.native_resolution("timm:tf_efficientnetv2_b0") == 224  # trained at 192
    assert zoo.native_resolution("torchvision:efficientnet_v2_s") == 384


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "python:own_nets:build"
    common = ["bottlenecks", "--resolution", "32", "--json"]
    assert main([*common, name, "--plot", "ratio.svg"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "schema_version": 1,
        "model": name,
        "resolution": 32,
        "granularity": "block",
        "input_elements": 3072,
        "split_points": [
            point(0, [8, 16, 16], natural=True, compressive=True),
            point(1, [12, 8, 8], natural=True, compressive=True),
            point(2, [12, 8, 8], natural=True, compressive=False),
        ],
        "counts": {"split_points": 3, "natural": 3, "compressive": 2},
    }
    assert Path("ratio.svg").read_text().lstrip().startswith("<?xml")
    listed = {"schema_version": 1, "name": "two", "models": [name, name]}
    Path("two.yaml").write_text(json.dumps(listed))
    assert main([*common, "--list", "two.yaml", "--page", "out/page.html"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == [document, document]
    page = Path("out/page.html").read_text()
    assert page.count(f"<td>{name}</td>") == 2
    assert "0:\u00a00.667 · 1:\u00a00.250" in page
    assert main(["models", "resnet1*", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["models"]
    assert {"torchvision:resnet18", "timm:resnet18"} <= set(found)


def point(index: int, shape: list[int], *, natural: bool, compressive: bool) -> dict:
    elements = shape[0] * shape[1] * shape[2]
    return {
        "index": index,
        "name": f"body.{index} (Block)",
        "shapes": [shape],
        "elements": elements,
        "ratio": elements / 3072,
        "natural": natural,
        "compressive": compressive,
    }
