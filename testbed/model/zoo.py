"""Networks by name: ``torchvision:``, ``timm:``, ``python:`` and ``export:``. Orchestrator only."""

from __future__ import annotations

import fnmatch
import importlib
import sys
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from testbed.errors import UserError
from testbed.model.export import PixelNetwork, torch_warnings_silenced
from testbed.model.graphs import exported_resolution, load_exported
from testbed.model.library import DEFAULT_RESOLUTION, LIBRARIES
from testbed.model.names import parse_name

RANDOM = "random"
_CALIBRATION_IMAGES = 4
_KEYS_SHOWN = 3


def list_models(pattern: str) -> list[str]:
    """Names of both libraries' models that contain, or match as a glob, the pattern."""
    glob = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    names = []
    for source, library in LIBRARIES.items():
        try:
            names += [f"{source}:{name}" for name in library.names()]
        except UserError:
            if source != "timm":  # an extra: the list is whole without it
                raise
    return [n for n in names if fnmatch.fnmatch(n, glob) or fnmatch.fnmatch(n.split(":")[1], glob)]


def native_resolution(name: str) -> int:
    """Height and width in pixels that the model was made for; 224 where nothing says."""
    source, rest = parse_name(name)
    if source == "export":
        return exported_resolution(Path(rest))
    return LIBRARIES[source].native_resolution(rest) if source in LIBRARIES else DEFAULT_RESOLUTION


def sketch(name: str) -> nn.Module:
    """The network in eval mode for its shapes alone: fake tensors where its source allows."""
    source, rest = parse_name(name)
    if source not in LIBRARIES:
        return _make(source, rest).eval()
    try:
        with FakeTensorMode(), _NothingDrawn():  # type: ignore[no-untyped-call]
            return _make(source, rest).eval()
    except DataDependentOutputException:  # RegNet computes its widths with tensors
        return _make(source, rest).eval()


class _NothingDrawn(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers initialisers that ask whether a drawn value is to be drawn again: no.

    Fake tensors have no values to tell; every other question about one is refused.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return False
        return func(*args, **(kwargs or {}))


def build(name: str, weights: str, seed: int, resolution: int) -> nn.Module:
    """The network in eval mode.

    Args:
        name: such as ``efficientnet_b0``, ``timm:resnet50``, ``python:my_pkg.nets:build`` (a
            callable without arguments) or ``export:file.pt2``.
        weights: ``random`` (drawn from ``seed``; a callable's own network stays as it made it, an
            exported one has its own), the path of a state-dict file, or the name of published
            weights, which the library downloads.
        seed: of the random weights.
        resolution: height and width of the input in pixels.

    Raises UserError for an unknown name, weights that do not fit, or a hub out of reach.
    """
    source, rest = parse_name(name)
    with torch_warnings_silenced(), torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        if weights == RANDOM:
            network = _make(source, rest).eval()
            if source in LIBRARIES:
                _wake(network)
                _calibrate(network, name, resolution)
        elif source == "export":
            raise UserError(f"model.weights: {name} brings its own; leave weights out")
        elif Path(weights).is_file():
            network = _make(source, rest)
            _load_state(network, Path(weights))
        elif source in LIBRARIES:
            network = LIBRARIES[source].published(rest, weights)
        else:
            raise UserError(f"model.weights: no such file: {weights}")
    return network.eval()


def _make(source: str, rest: str) -> nn.Module:
    if source == "export":
        return load_exported(Path(rest))
    return LIBRARIES[source].make(rest) if source in LIBRARIES else _call(rest)


def _call(target: str) -> nn.Module:
    network = call_named("model.name", target)
    if not isinstance(network, nn.Module):
        raise UserError(
            f"model.name: python:{target}: expected an nn.Module, got {type(network).__name__}"
        )
    return network


def call_named(key: str, target: str, *arguments: Any) -> Any:
    """What ``package.module:callable`` returns; found from the working directory too.

    Raises UserError, naming the ``key`` of the experiment that asks for it, for whatever the
    callable or its import raises.
    """
    module_name, _, attribute = target.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module: Any = importlib.import_module(module_name)
        return reduce(getattr, attribute.split("."), module)(*arguments)
    except Exception as error:  # the user's own code: it may raise anything
        raise UserError(
            f"{key}: python:{target}: {type(error).__name__}: {error}; expected python:"
            f"package.module:callable, importable from here, taking {len(arguments)} arguments"
        ) from error
    finally:
        sys.path.remove(here)


def _wake(network: nn.Module) -> None:
    """Draw linear layers that start at zero (ViT's last): all-zero logits compare equal to any."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.any():
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)


def _calibrate(network: nn.Module, name: str, resolution: int) -> None:
    """Give batch norms the statistics of noise images.

    Fresh ones pretend to have seen unit variance, so that the activations of a deep random network
    shrink below what float16 can hold and its logits below what a comparison can tell.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None  # a plain average over what is seen
    pixels = torch.randint(0, 256, (_CALIBRATION_IMAGES, 3, resolution, resolution))
    try:
        with torch.no_grad():
            PixelNetwork(network)(pixels.to(torch.uint8))
    except Exception as error:  # a network says in its own way that an input does not fit
        raise UserError(
            f"model {name} refuses {resolution}x{resolution} images ({type(error).__name__}: "
            f"{str(error).strip().partition(chr(10))[0]}); leave model.resolution out for its own"
        ) from error
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum


def _load_state(network: nn.Module, path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"expected a dict of tensors, got {type(state).__name__}")
        reason = _misfit(network, state)
    except Exception as error:  # a file that is none shows itself in many ways
        reason = f"{type(error).__name__}: {' '.join(str(error).split()).partition('. ')[0]}"
    if reason:
        raise UserError(
            f"model.weights: {path}: is no state dict of this model ({reason}); "
            "write one with torch.save(model.state_dict(), file)"
        )
    network.load_state_dict(state)


def _misfit(network: nn.Module, state: dict[str, Any]) -> str:
    """What does not fit, the first few keys of each kind; empty where all does."""
    own = network.state_dict()
    both = own.keys() & state.keys()
    kinds = {
        "missing": own.keys() - both,
        "unexpected": state.keys() - both,
        "of another shape": {k for k in both if own[k].shape != getattr(state[k], "shape", None)},
    }
    parts = []
    for kind, keys in kinds.items():
        if keys:
            first = ", ".join([key for key in own | state if key in keys][:_KEYS_SHOWN])
            more = ", …" if len(keys) > _KEYS_SHOWN else ""
            parts.append(f"{len(keys)} {kind}: {first}{more}")
    return "; ".join(parts)
