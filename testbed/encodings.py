"""Names of what crosses the link, told alike by the files and both ends. Standard library only.

``<element>[+<compression>]``: of the input ``uint8``, ``float32`` or ``jpeg:<quality>``; of
features ``float32``, ``float16``, ``int8`` (affine, one scale a tensor) or ``int8-channel`` (a
scale for each index of dimension 1); then optionally ``+zstd`` or ``+lz4``, which lose nothing.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

INPUTS = ("uint8", "float32", "jpeg")
FEATURES = ("float32", "float16", "int8", "int8-channel")
COMPRESSIONS = ("zstd", "lz4")
# Encoding part → module to import and package to install where a host lacks it.
MODULES = {"jpeg": "PIL.Image", "zstd": "zstandard", "lz4": "lz4.block"}
PACKAGES = {"jpeg": "Pillow", "zstd": "zstandard", "lz4": "lz4"}

ITEM_BYTES = {"uint8": 1, "int8": 1, "int8-channel": 1, "float16": 2, "float32": 4}

_NAME = re.compile(r"^([a-z0-9-]+)(?::([0-9]{1,3}))?(?:\+([a-z0-9]+))?$")


@dataclass(frozen=True)
class Encoding:
    """One encoding by its parts; ``quality`` (1 to 100) is of ``jpeg`` alone."""

    name: str
    element: str
    quality: int | None
    compression: str | None

    @property
    def lossless(self) -> bool:
        """Whether what arrives is what was sent: pixels are whole, features float32 already."""
        return self.element in ("uint8", "float32")

    @property
    def coarse(self) -> bool:
        """Whether it loses so much that some answers may change (float16 loses only digits)."""
        return self.element in ("int8", "int8-channel", "jpeg")

    @property
    def sized(self) -> bool:
        """Whether every query's payload has the same length."""
        return self.compression is None and self.element != "jpeg"

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of :data:`MODULES` that a host must have for it."""
        return tuple(part for part in (self.element, self.compression) if part in MODULES)


def parse_input(name: str) -> Encoding:
    """The encoding of pixels by name; raises ValueError naming what is known."""
    return _parse(name, INPUTS, "input")


def parse_features(name: str) -> Encoding:
    """The encoding of an intermediate tensor by name; raises ValueError naming what is known."""
    return _parse(name, FEATURES, "features")


def _parse(name: str, elements: Collection[str], what: str) -> Encoding:
    match = _NAME.match(name)
    element, digits, compression = match.groups() if match else ("", None, None)
    quality = None if digits is None else int(digits)
    if (
        element not in elements
        or compression not in (None, *COMPRESSIONS)
        or (element == "jpeg") != (quality is not None)
        or (quality is not None and (compression is not None or not 1 <= quality <= 100))
    ):
        known = ", ".join("jpeg:<1 to 100>" if e == "jpeg" else e for e in elements)
        raise ValueError(
            f"unknown encoding {reprlib.repr(name)} of {what}; expected {known}, all but jpeg "
            f"optionally with {' or '.join('+' + c for c in COMPRESSIONS)}"
        )
    return Encoding(name, element, quality, compression)


def missing(encodings: Iterable[Encoding], importable: Collection[str]) -> dict[str, str]:
    """Encoding names that a host cannot do, to the package that it lacks."""
    return {
        encoding.name: PACKAGES[part]
        for encoding in encodings
        for part in encoding.needs
        if part not in importable
    }
