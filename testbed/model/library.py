"""The model libraries, torchvision and timm, behind one interface. Orchestrator only."""

from __future__ import annotations

import difflib
import functools
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import nn

from testbed.errors import UserError
from testbed.model.export import torch_warnings_silenced

DEFAULT_RESOLUTION = 224


class Library(Protocol):
    """Named architectures with their native resolutions and published weights."""

    def names(self) -> list[str]:
        """Every classifier, by name."""

    def native_resolution(self, name: str) -> int:
        """Height and width in pixels that the model is evaluated at by those who published it."""

    def make(self, name: str) -> nn.Module:
        """The architecture with fresh weights."""

    def published(self, name: str, weights: str) -> nn.Module:
        """The architecture with weights that its library knows by name."""


class Torchvision:
    """``torchvision.models``."""

    def names(self) -> list[str]:
        """Classifiers only: no detection, segmentation or video."""
        models = _torchvision()[0]
        names: list[str] = models.list_models(module=models)
        return names

    def native_resolution(self, name: str) -> int:
        """The crop of the first published weights."""
        weights = next(iter(_torchvision()[0].get_model_weights(self._known(name))), None)
        return int(weights.transforms.keywords["crop_size"]) if weights else DEFAULT_RESOLUTION

    def make(self, name: str) -> nn.Module:
        """The architecture with fresh weights."""
        with torch_warnings_silenced():
            network: nn.Module = _torchvision()[0].get_model(self._known(name), weights=None)
        return network

    def published(self, name: str, weights: str) -> nn.Module:
        """Weights such as ``IMAGENET1K_V1`` or ``DEFAULT``, downloaded by torch."""
        known = _torchvision()[0].get_model_weights(self._known(name))
        if weights not in known.__members__ and weights != "DEFAULT":
            raise _no_such_weights(weights, name, list(known.__members__))
        entry = known[weights] if weights != "DEFAULT" else known.DEFAULT
        try:
            network: nn.Module = _torchvision()[0].get_model(name, weights=entry)
        except OSError as error:  # URLError is one too
            raise _out_of_reach(entry.url, error) from error
        return network

    def _known(self, name: str) -> str:
        names = self.names()
        if name in names:
            return name
        if name in _torchvision()[0].list_models():
            raise UserError(
                f"model.name: {name!r} is no classifier; expected one such as efficientnet_b0"
            )
        raise _no_such_model(name, names)


class Timm:
    """``timm``, which is an extra: nothing else needs it."""

    def names(self) -> list[str]:
        """Every architecture."""
        names: list[str] = _timm().list_models()
        return names

    def native_resolution(self, name: str) -> int:
        """The size that published results were tested at (V2 networks train at a smaller one)."""
        config: Any = _timm().get_pretrained_cfg(self._known(name))
        if config is None:
            return DEFAULT_RESOLUTION
        return int((config.test_input_size or config.input_size)[-1])

    def make(self, name: str) -> nn.Module:
        """The architecture with fresh weights."""
        with torch_warnings_silenced():
            network: nn.Module = _timm().create_model(self._known(name), pretrained=False)
        return network

    def published(self, name: str, weights: str) -> nn.Module:
        """Weights by their tag, such as ``in1k``, or ``DEFAULT``, downloaded by timm."""
        tagged = _timm().list_pretrained(f"{self._known(name)}.*")
        tags = [known.partition(".")[2] for known in tagged]
        if weights not in tags and weights != "DEFAULT":
            raise _no_such_weights(weights, name, tags)
        full = name if weights == "DEFAULT" else f"{name}.{weights}"
        try:
            with torch_warnings_silenced():
                network: nn.Module = _timm().create_model(full, pretrained=True)
        except Exception as error:  # the hub's client raises its HTTP library's own kinds
            raise _out_of_reach(f"timm/{full}", error) from error
        return network

    def _known(self, name: str) -> str:
        names = self.names()
        if name not in names:
            raise _no_such_model(name, names)
        return name


LIBRARIES: dict[str, Library] = {"torchvision": Torchvision(), "timm": Timm()}


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


@functools.cache
def _timm() -> ModuleType:
    if importlib.util.find_spec("timm") is None:
        raise UserError(
            "timm is not installed on this machine; install the extra: pip install "
            "'split-testbed[timm]'"
        )
    _torchvision()  # timm imports it
    with torch_warnings_silenced():
        import timm
    module: ModuleType = timm
    return module


def _no_such_model(name: str, names: list[str]) -> UserError:
    close = difflib.get_close_matches(name, names, n=3) or ["efficientnet_b0"]
    return UserError(
        f"model.name: unknown model {name!r}; did you mean {', '.join(close)}? "
        "(`testbed models PATTERN` lists them)"
    )


def _no_such_weights(weights: str, name: str, known: list[str]) -> UserError:
    return UserError(
        f"model.weights: {weights!r} is neither 'random', nor a file, nor published weights "
        f"of {name} ({', '.join(known) or 'no published ones'})"
    )


def _out_of_reach(what: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"model.weights: cannot download {what} ({reason}); fetch it by other means and "
        "give the file's path as weights"
    )
