"""Real inputs, decoded and resized once for hosts that can do neither. Orchestrator only.

They travel as one file, content-addressed like the model, and stay in the campaign's folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from testbed.errors import UserError
from testbed.model.table import SplitTable
from testbed.model.zoo import call_named

# Enough to tell encodings apart, which meet the same images, and few enough for a small device.
MOST_IMAGES = 128
MOST_BYTES = 64_000_000
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
# Of the shorter side the middle 7/8 are kept: 224 of 256, as ImageNet networks are evaluated.
_CROP = 0.875


@dataclass(frozen=True)
class Pictures:
    """uint8 images ``(count, 3, H, W)`` and, where they are known, their classes ``(count,)``."""

    images: Tensor
    labels: Tensor | None

    def save(self, path: Path) -> None:
        """Write the file that :func:`testbed.worker.inputs.read_pictures` takes."""
        with path.open("wb") as stream:
            torch.save({"images": self.images, "labels": self.labels}, stream)


def gather(inputs: str, table: SplitTable) -> Pictures:
    """The inputs that an experiment names, by folder, callable or an earlier campaign's pack.

    A folder of class folders is labelled: folders named by numbers are those classes of the model,
    others count in the order of their names, and then there must be one for every class. From
    each class in turn, and by name within it, the first images are taken until there are
    :data:`MOST_IMAGES` or :data:`MOST_BYTES`. A callable is given the resolution and returns what
    :class:`Pictures` holds, without labels or as a pair.

    Raises UserError for a folder without images, one that cannot be decoded, labels that are no
    classes of the model, and tensors of another shape.
    """
    source, _, rest = inputs.partition(":")
    if source == "images":
        found = _from_folder(Path(rest), table)
    elif source == "pack":
        content = torch.load(rest, weights_only=True)
        found = Pictures(content["images"], content["labels"])
    else:
        made = call_named("inputs", rest, table.resolution)
        images, labels = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        found = Pictures(images, labels)
    most = _most(table)
    _refuse_misfit(found, inputs, table)
    labels = None if found.labels is None else found.labels[:most].clone()
    return Pictures(found.images[:most].clone(), labels)


def _most(table: SplitTable) -> int:
    return max(1, min(MOST_IMAGES, MOST_BYTES // (3 * table.resolution**2)))


def _from_folder(folder: Path, table: SplitTable) -> Pictures:
    if not folder.is_dir():
        raise UserError(f"inputs: images:{folder}: no such folder")
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    loose = _images_in(folder)
    if loose and classes:
        raise UserError(
            f"inputs: images:{folder}: holds images beside class folders; expected one of the two"
        )
    by_class = [_images_in(path) for path in classes] if classes else [loose]
    indices = _class_indices(classes, table) if classes else [0]
    pairs = [[(path, i) for path in paths] for paths, i in zip(by_class, indices, strict=True)]
    chosen = [pair for pair in chain(*zip_longest(*pairs)) if pair is not None][: _most(table)]
    if not chosen:
        raise UserError(f"inputs: images:{folder}: no image ({', '.join(sorted(_SUFFIXES))}) in it")
    images = torch.stack([_decoded(path, table.resolution) for path, _ in chosen])
    labels = torch.tensor([label for _, label in chosen]) if classes else None
    return Pictures(images, labels)


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def _class_indices(classes: Sequence[Path], table: SplitTable) -> list[int]:
    if all(path.name.isdecimal() for path in classes):
        return [int(path.name) for path in classes]
    if len(classes) != table.outputs:
        raise UserError(
            f"inputs: images:{classes[0].parent}: {len(classes)} class folders for the "
            f"{table.outputs} classes of {table.model}: which is which? name each folder by the "
            "number of its class"
        )
    return list(range(len(classes)))


def _decoded(path: Path, resolution: int) -> Tensor:
    """The middle of an image as uint8 ``(3, resolution, resolution)``."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"inputs: {path}: cannot be decoded: {error}; take it out") from error
    scale = round(resolution / _CROP) / min(image.size)
    width, height = (max(resolution, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    image = image.crop((left, top, left + resolution, top + resolution))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(resolution, resolution, 3).permute(2, 0, 1).contiguous()


def _refuse_misfit(found: Pictures, inputs: str, table: SplitTable) -> None:
    images, labels = found.images, found.labels
    told = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else repr(images)
    fits = isinstance(images, Tensor) and images.dtype == torch.uint8 and images.dim() == 4
    if not (fits and len(images) and tuple(images.shape[1:]) == table.input_shape):
        expected = ", ".join(map(str, table.input_shape))
        raise UserError(f"inputs: {inputs}: expected torch.uint8 (count, {expected}), got {told}")
    if labels is None:
        return
    whole = isinstance(labels, Tensor) and labels.dtype == torch.int64
    if not whole or labels.shape != images.shape[:1]:
        raise UserError(f"inputs: {inputs}: expected torch.int64 labels, one an image")
    if int(labels.min()) < 0 or int(labels.max()) >= table.outputs:
        raise UserError(
            f"inputs: {inputs}: {table.model} has the classes 0 to {table.outputs - 1}, got labels "
            f"from {int(labels.min())} to {int(labels.max())}"
        )
