"""Published networks from name to engine, and the folder that keeps their exports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from testbed.config.experiment import ModelSpec
from testbed.errors import UserError
from testbed.model import library, zoo
from testbed.model.cache import Prepared, _key, prepare
from testbed.model.engine import Engine

TIMM = ModelSpec(name="timm:test_efficientnet", resolution=64)
MOBILENET = ModelSpec(name="mobilenet_v2", resolution=64)
BLOCKED = (
    *("numpy", "pandas", "paramiko", "pydantic", "pyroute2", "rich", "timm", "torchvision"),
    "yaml",
)
ON_A_WORKER = """
import json, pathlib, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.argv[4].split(","):
            return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import torch
from testbed.model.engine import Engine
from testbed.model.table import SplitTable

table = SplitTable.from_json(json.loads(pathlib.Path(sys.argv[3]).read_text())["table"])
candidates = table.candidates("compressive")
engine = Engine(pathlib.Path(sys.argv[1]), sys.argv[2], table, candidates, batch=1)
pixels = torch.randint(0, 256, (1, *table.input_shape), dtype=torch.uint8)
print(json.dumps(engine.check(pixels)))
assert not [name for name in sys.modules if name in sys.argv[4].split(",")]
# The compiler and the algebra behind torch.export weigh more than a small device can spare.
assert not {"torch._dynamo", "sympy"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module", params=[TIMM, MOBILENET], ids=lambda s: s.name)
def prepared(request: pytest.FixtureRequest, cache: Path) -> Prepared:
    return prepare(request.param, cache)


def test_split_equals_whole_at_every_block(prepared: Prepared) -> None:
    batch = 2
    table = prepared.table
    splits = [point.split for point in table.points]
    engine = Engine(prepared.archive, prepared.archive_sha256, table, splits, batch=batch)
    shape = (batch, 3, table.resolution, table.resolution)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    before = pixels.clone()
    assert engine.check(pixels) == dict.fromkeys(splits, True)
    assert torch.equal(pixels, before)
    logits = engine.whole(pixels)
    assert logits.shape == (batch, 1000)
    assert 1e-2 < logits.std() < 1e2  # a network worth comparing, whatever its weights


def test_float16_features_keep_the_result(cache: Path) -> None:
    prepared = prepare(MOBILENET, cache)
    table = prepared.table
    splits = table.candidates("compressive")
    engine = Engine(prepared.archive, prepared.archive_sha256, table, splits, batch=1)
    pixels = torch.randint(0, 256, (1, *table.input_shape), dtype=torch.uint8)
    whole = engine.whole(pixels)
    for split in splits[1:-1]:
        received = engine.head(split, pixels).half().float()
        assert (engine.tail(split, received) - whole).abs().max() < 0.05 * whole.std()


def test_a_worker_needs_torch_alone(cache: Path) -> None:
    prepared = prepare(MOBILENET, cache)
    done = subprocess.run(
        [
            # torch itself warns of the missing numpy while it is imported.
            *(sys.executable, "-W", "error", "-W", "ignore:Failed to initialize NumPy"),
            *("-c", ON_A_WORKER),
            *(prepared.archive, prepared.archive_sha256, prepared.archive.with_name("table.json")),
            ",".join(BLOCKED),
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    candidates = ("offload", "1", "3", "6", "13", "local")
    assert json.loads(done.stdout) == dict.fromkeys(candidates, True)


def test_an_export_is_made_once_and_a_damaged_one_again(cache: Path) -> None:
    spec = ModelSpec(name="squeezenet1_1", resolution=64)
    first = prepare(spec, cache)
    assert first.weights is None
    made_ns = first.archive.stat().st_mtime_ns
    assert prepare(spec, cache) == first
    assert first.archive.stat().st_mtime_ns == made_ns
    assert _key(spec.model_copy(update={"seed": 1})) != _key(spec) == first.archive.parent.name
    first.archive.write_bytes(b"damaged")
    again = prepare(spec, cache)
    assert again.archive.stat().st_mtime_ns != made_ns
    assert again.archive.stat().st_size > 10**6
    assert not list(cache.glob(".export-*"))


def test_random_weights_come_from_the_seed_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    nets = [zoo.build("squeezenet1_1", "random", seed, 64) for seed in (3, 3, 4)]
    assert torch.equal(torch.rand(1), expected)
    first, same, other = ([p.sum().item() for p in net.parameters()] for net in nets)
    assert first == same != other


def test_weights_from_a_file(tmp_path: Path) -> None:
    state = zoo.build("squeezenet1_1", "random", 7, 64).state_dict()
    torch.save(state, tmp_path / "weights.pt")
    network = zoo.build("squeezenet1_1", str(tmp_path / "weights.pt"), 0, 64)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    with pytest.raises(UserError, match="no state dict of this model"):
        zoo.build("resnet18", str(tmp_path / "weights.pt"), 0, 64)


def test_no_logits_of_a_random_network_are_all_zero() -> None:
    models, _ = library._torchvision()
    network = models.VisionTransformer(32, 16, 1, 2, 8, 8)  # its last layer starts at zero
    assert not network.heads.head.weight.any()
    zoo._wake(network)
    assert network.heads.head.weight.std() > 0


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("efficientnet_b9", "random", "did you mean efficientnet_b"),
        ("fcn_resnet50", "random", "is no classifier"),
        ("resnet18", "IMAGENET99", "neither 'random', nor a file.*IMAGENET1K_V1"),
    ],
)
def test_what_is_not_known_is_the_users_mistake(name: str, weights: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        zoo.build(name, weights, 0, 224)


def test_a_hub_out_of_reach_names_the_url_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")  # a port where nobody listens
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=r"cannot download https://.*squeezenet1_1.*file's path"):
        zoo.build("squeezenet1_1", "DEFAULT", 0, 224)


@pytest.mark.parametrize(
    ("name", "resolution"),
    [("efficientnet_b0", 224), ("efficientnet_b7", 600), ("efficientnet_v2_l", 480)],
)
def test_native_resolution(name: str, resolution: int) -> None:
    assert zoo.native_resolution(name) == resolution
