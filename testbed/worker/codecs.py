"""Compression and JPEG by libraries that a host may lack, each imported only where it is used."""

from __future__ import annotations

import importlib
import importlib.util
import struct
from io import BytesIO
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from testbed.encodings import MODULES, PACKAGES, Encoding
from testbed.errors import UserError
from testbed.worker.wire import WireError

# The fastest level: on the links of interest a denser one costs more time than it saves.
_ZSTD_LEVEL = 1
_LENGTH = struct.Struct("<I")


class DamagedPayload(WireError):
    """A payload is not what its layout says."""


def importable() -> list[str]:
    """The parts of encodings that this host has the library for, found without importing it."""
    return [
        part for part, name in MODULES.items() if importlib.util.find_spec(name.partition(".")[0])
    ]


class Codec(Protocol):
    """A lossless compression."""

    def compress(self, raw: memoryview) -> bytes:
        """The raw payload, smaller if it can be."""

    def decompress(self, payload: memoryview, raw: memoryview) -> None:
        """Fill ``raw``; raises DamagedPayload where the payload is not exactly that long."""


def _library(part: str) -> ModuleType:
    try:
        return importlib.import_module(MODULES[part])
    except ImportError as error:
        raise UserError(
            f"encoding: {part} needs the package {PACKAGES[part]}, which this host does not have; "
            f"install it (pip install {PACKAGES[part]}) or choose another encoding"
        ) from error


def make_codec(encoding: Encoding) -> Codec | None:
    """The encoding's compression, None for none; UserError where any library is missing."""
    if encoding.element == "jpeg":
        _library("jpeg")
    if encoding.compression is None:
        return None
    library = _library(encoding.compression)
    return _Zstd(library) if encoding.compression == "zstd" else _Lz4(library)


class _Zstd:
    def __init__(self, library: ModuleType) -> None:
        self._library = library
        self._compressor = library.ZstdCompressor(level=_ZSTD_LEVEL)
        self._decompressor = library.ZstdDecompressor()

    def compress(self, raw: memoryview) -> bytes:
        packed: bytes = self._compressor.compress(raw)
        return packed

    def decompress(self, payload: memoryview, raw: memoryview) -> None:
        try:
            # The frame's own claim decides how much the library takes: read before, not believed.
            told = self._library.frame_content_size(payload)
            _same_length(told, raw)
            unpacked = self._decompressor.decompress(payload, allow_extra_data=False)
        except self._library.ZstdError as error:
            raise DamagedPayload(f"payload: not one zstd frame: {error}") from error
        _same_length(len(unpacked), raw)
        raw[:] = unpacked


class _Lz4:
    def __init__(self, library: ModuleType) -> None:
        self._library = library

    def compress(self, raw: memoryview) -> bytes:
        packed: bytes = self._library.compress(raw, store_size=False)
        return packed

    def decompress(self, payload: memoryview, raw: memoryview) -> None:
        try:
            unpacked = self._library.decompress(payload, uncompressed_size=len(raw))
        except self._library.LZ4BlockError as error:
            raise DamagedPayload(f"payload: not one lz4 block: {error}") from error
        _same_length(len(unpacked), raw)
        raw[:] = unpacked


def _same_length(got: int, raw: memoryview) -> None:
    if got != len(raw):
        raise DamagedPayload(f"payload: expected {len(raw)} bytes unpacked, got {got}")


def jpeg_encode(pixels: Tensor, quality: int) -> bytes:
    """Each image of uint8 ``(N, 3, H, W)`` as a JPEG with its length before it."""
    image = _library("jpeg")
    parts = []
    for sample in pixels:
        rows = sample.permute(1, 2, 0).contiguous()
        buffer = bytearray(rows.numel())
        torch.frombuffer(buffer, dtype=torch.uint8).copy_(rows.view(-1))
        packed = BytesIO()
        size = (rows.shape[1], rows.shape[0])
        image.frombytes("RGB", size, bytes(buffer)).save(packed, "JPEG", quality=quality)
        parts += [_LENGTH.pack(packed.tell()), packed.getvalue()]
    return b"".join(parts)


def jpeg_decode(payload: memoryview, shape: tuple[int, ...]) -> Tensor:
    """The uint8 pixels ``(N, 3, H, W)`` of :func:`jpeg_encode`.

    Raises DamagedPayload for anything but N images of exactly that size; an image's own header is
    checked before it is unpacked.
    """
    images = torch.empty(shape, dtype=torch.uint8)
    at = 0
    for target in images:
        end = at + _LENGTH.size
        if end > len(payload):
            raise DamagedPayload(f"payload: expected {shape[0]} images, got fewer")
        (length,) = _LENGTH.unpack_from(payload, at)
        at, end = end, end + length
        if end > len(payload):
            raise DamagedPayload(f"payload: expected an image of {length} bytes, got fewer")
        rows = _unpack_image(bytes(payload[at:end]), (shape[3], shape[2]))
        target.copy_(rows.view(shape[2], shape[3], 3).permute(2, 0, 1))
        at = end
    if at != len(payload):
        raise DamagedPayload(f"payload: expected {at} bytes of images, got {len(payload)}")
    return images


def _unpack_image(packed: bytes, size: tuple[int, int]) -> Tensor:
    image = _library("jpeg")
    try:
        with image.open(BytesIO(packed), formats=["JPEG"]) as opened:
            if (opened.size, opened.mode) != (size, "RGB"):
                raise DamagedPayload(
                    f"image: expected RGB of {size}, got {opened.mode} of {opened.size}"
                )
            pixels = bytearray(opened.tobytes())
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        raise DamagedPayload(f"image: not a whole JPEG: {error}") from error
    return torch.frombuffer(pixels, dtype=torch.uint8)
