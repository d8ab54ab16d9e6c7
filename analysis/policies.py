"""How policies are named, ordered and grouped in tables and figures."""

from __future__ import annotations

from collections.abc import Iterable

from testbed.model.table import LOCAL, OFFLOAD

DYNAMIC = "dynamic"
KINDS = (LOCAL, "split", OFFLOAD)


def split_of(policy: str) -> str | None:
    """The one split that a static policy chooses; None for ``dynamic``."""
    if policy in (LOCAL, OFFLOAD):
        return policy
    return policy.removeprefix("static:") if policy.startswith("static:") else None


def kind_of(split: str) -> str:
    """``local``, ``split`` or ``offload``."""
    return split if split in (LOCAL, OFFLOAD) else "split"


def split_label(split: str) -> str:
    """A split's name in running text: ``split 3``, ``local``, ``offload``."""
    return split if split in (LOCAL, OFFLOAD) else f"split {split}"


def policy_label(policy: str) -> str:
    """A policy's name in running text."""
    split = split_of(policy)
    return policy if split is None else split_label(split)


def ordered_splits(splits: Iterable[str]) -> list[str]:
    """``local``, then the splits by depth, then ``offload``."""
    return sorted(set(splits), key=_depth)


def ordered_policies(policies: Iterable[str]) -> list[str]:
    """The static choices as :func:`ordered_splits`, then ``dynamic``."""
    return sorted(set(policies), key=lambda p: (split_of(p) is None, _depth(split_of(p) or p)))


def _depth(split: str) -> tuple[int, int, str]:
    if split in (LOCAL, OFFLOAD):
        return (0 if split == LOCAL else 2, 0, split)
    return (1, int(split) if split.isdigit() else 0, split)
