"""Networks by name, from torchvision. Orchestrator only."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import pickle
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import torch
from torch import nn

from testbed.errors import UserError
from testbed.model.archive import PixelNetwork, torch_warnings_silenced

RANDOM = "random"
_DEFAULT_RESOLUTION = 224
_CALIBRATION_IMAGES = 4


@functools.cache
def _torchvision() -> tuple[ModuleType, torch.library.Library | None]:
    """``torchvision.models``, and the schemas that must live as long as it does.

    torchvision's compiled operators do not load beside another build of torch, and its import
    then fails on the missing operator ``torchvision::nms``. Its classifiers are pure Python, so
    declaring the two operators that the import registers kernels for is enough.
    """
    schemas = None
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise UserError("torchvision is not installed on this machine; run `make setup`")
    if not any(_loads(library) for library in Path(spec.origin).parent.glob("_C*.so")):
        schemas = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            schemas.define(  # type: ignore[no-untyped-call]
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    with torch_warnings_silenced():
        import torchvision.models
    return torchvision.models, schemas


def _loads(library: Path) -> bool:
    try:
        torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True


def _require_classifier(name: str) -> ModuleType:
    models, _ = _torchvision()
    classifiers: list[str] = models.list_models(module=models)
    if name in classifiers:
        return models
    if name in models.list_models():
        raise UserError(
            f"model.name: {name!r} is no classifier; expected one such as efficientnet_b0"
        )
    close = difflib.get_close_matches(name, classifiers, n=3) or ["efficientnet_b0"]
    raise UserError(f"model.name: unknown model {name!r}; did you mean {', '.join(close)}?")


def native_resolution(name: str) -> int:
    """Height and width in pixels that the model's published weights were made for."""
    models = _require_classifier(name)
    weights = next(iter(models.get_model_weights(name)), None)
    if weights is None:
        return _DEFAULT_RESOLUTION
    return int(weights.transforms.keywords["crop_size"])


def build(name: str, weights: str, seed: int, resolution: int) -> nn.Module:
    """The network in eval mode.

    Args:
        name: a torchvision classifier such as ``efficientnet_b0``.
        weights: ``random`` (drawn from ``seed``), the path of a state-dict file, or the name of
            published weights such as ``IMAGENET1K_V1``, which torch downloads.
        seed: of the random weights.
        resolution: height and width of the input in pixels.

    Raises UserError for an unknown name, weights that do not fit, or a hub out of reach.
    """
    models = _require_classifier(name)
    with torch_warnings_silenced(), torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        if weights == RANDOM:
            network = models.get_model(name, weights=None).eval()
            _wake(network)
            _calibrate(network, resolution)
        elif Path(weights).is_file():
            network = models.get_model(name, weights=None)
            _load_state(network, Path(weights))
        else:
            network = _published(models, name, weights)
    assert isinstance(network, nn.Module)
    return network.eval()


def _wake(network: nn.Module) -> None:
    """Draw linear layers that start at zero (ViT's last): all-zero logits compare equal to any."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.any():
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)


def _calibrate(network: nn.Module, resolution: int) -> None:
    """Give batch norms the statistics of noise images.

    Fresh ones pretend to have seen unit variance, so that the activations of a deep random network
    shrink below what float16 can hold and its logits below what a comparison can tell.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None  # a plain average over what is seen
    with torch.no_grad():
        pixels = torch.randint(0, 256, (_CALIBRATION_IMAGES, 3, resolution, resolution))
        PixelNetwork(network)(pixels.to(torch.uint8))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum


def _load_state(network: nn.Module, path: Path) -> None:
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, TypeError, EOFError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"model.weights: {path}: is no state dict of this model ({reason}); "
            "write one with torch.save(model.state_dict(), file)"
        ) from error


def _published(models: ModuleType, name: str, weights: str) -> nn.Module:
    known = models.get_model_weights(name)
    if weights not in known.__members__ and weights != "DEFAULT":
        names = ", ".join(known.__members__) or "no published ones"
        raise UserError(
            f"model.weights: {weights!r} is neither {RANDOM!r}, nor a file, nor published weights "
            f"of {name} ({names})"
        )
    entry = known[weights] if weights != "DEFAULT" else known.DEFAULT
    try:
        network: nn.Module = models.get_model(name, weights=entry)
    except (URLError, OSError) as error:
        raise UserError(
            f"model.weights: cannot download {entry.url} ({error}); fetch it by other means and "
            "give the file's path as weights"
        ) from error
    return network
