"""What a model may be named, and what builds it. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping

from testbed.errors import UserError

# By source the packages that build a model besides torch; a callable's own nobody knows.
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "torchvision": ("torchvision",),
    "timm": ("torchvision", "timm"),
    "python": (),
    "export": (),
}


def parse_name(name: str) -> tuple[str, str]:
    """Source and the name within it; a bare name is torchvision's."""
    source, colon, rest = name.partition(":")
    if not colon:
        return "torchvision", name
    if source not in PACKAGES or not rest:
        raise UserError(
            f"model.name: expected torchvision:NAME, timm:NAME, python:package.module:callable or "
            f"export:file.pt2, got {name!r}"
        )
    return source, rest
