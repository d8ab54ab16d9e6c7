"""The model as one archive that both ends load: ``torch.export``, uint8 pixels in, logits out.

Needs torch alone. The exported graph is functional, its batch dimension dynamic, and the
preprocessing is its first step, so whichever side runs the first layer also preprocesses.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from testbed.errors import TestbedError, UserError
from testbed.records import sha256_file

# Module paths of the network inside the exported graph begin with this.
NETWORK_PREFIX = "network."
_TORCH_VERSION_FILE = "torch_version"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, as torchvision's transforms


class PixelNetwork(nn.Module):
    """A classifier that takes the uint8 image batch ``(N, 3, H, W)`` itself."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits ``(N, outputs)`` of uint8 pixels ``(N, 3, H, W)``."""
        unit = pixels.to(torch.float32).div(255)
        logits: Tensor = self.network((unit - self.mean) / self.std)
        return logits


@contextmanager
def torch_warnings_silenced() -> Iterator[None]:
    """Export and unlift trip over deprecations inside torch itself, which nobody here can mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def export_program(network: nn.Module, resolution: int) -> ExportedProgram:
    """Export a classifier in eval mode, behind its preprocessing, with a dynamic batch.

    Works on real and on fake tensors. Raises UserError where torch refuses the network at this
    resolution, or where its output is not one tensor ``(N, outputs)``.
    """
    with torch_warnings_silenced():
        # Two images: an example batch of one would be taken for a constant.
        pixels = torch.zeros((2, 3, resolution, resolution), dtype=torch.uint8)
        wrapped = PixelNetwork(network).eval()
        try:
            program: ExportedProgram = torch.export.export(
                wrapped, (pixels,), dynamic_shapes=({0: Dim("batch")},)
            ).run_decompositions({})
        except Exception as error:  # torch.export raises many kinds, all about the network
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"model {type(network).__name__} at {resolution}x{resolution}: torch.export "
                f"refuses it ({type(error).__name__}: {reason}); use another resolution or model"
            ) from error
    outputs = program.graph_signature.user_outputs
    value = program.graph.output_node().args[0][0].meta["val"]
    if len(outputs) != 1 or not isinstance(value, Tensor) or value.dim() != 2:
        raise UserError(
            f"model {type(network).__name__}: is no classifier; expected one output tensor "
            f"(N, outputs), got {len(outputs)} outputs; use a classification model"
        )
    return program


def save_archive(program: ExportedProgram, path: Path) -> str:
    """Write the archive whole or not at all; returns its SHA-256 in hex."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.pt2")
    try:
        with torch_warnings_silenced():
            torch.export.save(
                program, temporary, extra_files={_TORCH_VERSION_FILE: torch.__version__}
            )
        digest = sha256_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return digest


def load_archive(path: Path, sha256: str) -> ExportedProgram:
    """Read an archive back after checking its hash.

    Raises TestbedError where the file is missing or another one, or where this host's torch
    cannot read what the exporting torch wrote (naming both versions).
    """
    if not path.is_file():
        raise TestbedError(f"{path}: no model archive; deploy it to this host again")
    if (actual := sha256_file(path)) != sha256:
        raise TestbedError(f"{path}: SHA-256 is {actual}, expected {sha256}; deploy it again")
    try:
        with torch_warnings_silenced():
            return torch.export.load(path)
    except Exception as error:  # an unreadable archive shows itself in many ways
        reason = str(error).strip().partition("\n")[0]
        raise TestbedError(
            f"{path}: torch {torch.__version__} cannot read the archive written by torch "
            f"{_exporting_torch(path)} ({type(error).__name__}: {reason}); install that torch here"
        ) from error


def _exporting_torch(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(f"extra/{_TORCH_VERSION_FILE}"):
                    return archive.read(name).decode()
    except zipfile.BadZipFile:
        pass
    return "unknown"
