"""Policies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from testbed.errors import UserError
from testbed.model.table import LOCAL, OFFLOAD, SplitTable
from testbed.policy.ans import Ans
from testbed.policy.clairvoyant import Clairvoyant, Oracle
from testbed.policy.fixed import Cycle, Random, Static
from testbed.policy.neurosurgeon import Neurosurgeon, sizes_before
from testbed.policy.predicting import Deadline, Dynamic, Hysteresis, Robust
from testbed.policy.protocol import Policy
from testbed.policy.user import PREFIX, Source, load

_PLAIN: Mapping[str, Callable[[], Policy]] = {
    "dynamic": Dynamic,
    "dynamic+hysteresis": Hysteresis,
    "robust": Robust,
    "deadline": Deadline,
    "ans": Ans,
}


def make_policy(
    name: str,
    splits: Sequence[str],
    *,
    seed: int,
    cycle_queries: int | None = None,
    table: SplitTable | None = None,
    oracle: Oracle | None = None,
    source: Source | None = None,
) -> Policy:
    """The policy of a name; ``splits`` are the candidates.

    Args:
        name: ``local``, ``offload``, ``static:<split>``, one of the policies that choose, ``cycle``
            (with ``cycle_queries``), or ``python:<module>:<class>`` (with ``source``).
        splits: the candidates.
        seed: of ``random`` and ``cycle``.
        cycle_queries: how many queries of each candidate ``cycle`` is to count.
        table: what ``neurosurgeon`` regresses on.
        oracle: what ``clairvoyant`` is told.
        source: a user's own policy.

    Raises UserError for another name, or for a split that is no candidate.
    """
    if name in _PLAIN:
        return _PLAIN[name]()
    if name == "random":
        return Random(splits, seed)
    if name == "neurosurgeon" and table is not None:
        return Neurosurgeon(sizes_before(table))
    if name == "clairvoyant" and oracle is not None:
        return Clairvoyant(oracle)
    if name.startswith(PREFIX) and source is not None:
        return load(source, splits)
    if name == "cycle" and cycle_queries is not None:
        return Cycle(splits, cycle_queries, seed)
    split = name.removeprefix("static:") if name.startswith("static:") else name
    if name not in (LOCAL, OFFLOAD, f"static:{split}"):
        raise UserError(
            f"policy: expected local, offload, static:<split>, {', '.join(_PLAIN)}, neurosurgeon, "
            f"clairvoyant, random or python:<module>:<class>, got {name!r}"
        )
    if split not in splits:
        known = ", ".join(splits)
        raise UserError(f"policy {name}: {split!r} is not a candidate; expected one of {known}")
    return Static(split)
