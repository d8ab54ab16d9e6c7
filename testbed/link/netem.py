"""What a link does to packets beside its rate, as a pure description.

Delay, jitter, loss, duplication, reordering and corruption, in the kernel's netem terms
(net/sched/sch_netem.c, tc-netem(8)). Shares are fractions of 1, times nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from statistics import NormalDist
from typing import Any

from testbed.errors import UserError

DISTRIBUTIONS = ("uniform", "normal", "pareto")
_TABLE_SIZE = 4096
_TABLE_SCALE = 8192  # NETEM_DIST_SCALE: one standard deviation in the kernel's table
_TABLE_MAX = 32767
_PARETO_SHAPE = 3.0  # as iproute2's pareto table


@dataclass(frozen=True)
class Gilbert:
    """Loss of the Gilbert–Elliott model, by packets: two states, a loss share in each.

    Attributes:
        to_bad, to_good: chance of going from the good to the bad state, and back.
        loss_bad, loss_good: chance of losing a packet in each.
    """

    to_bad: float
    to_good: float
    loss_bad: float = 1.0
    loss_good: float = 0.0

    @property
    def mean(self) -> float:
        """The long-run share of packets lost."""
        bad = self.to_bad / (self.to_bad + self.to_good)
        return bad * self.loss_bad + (1 - bad) * self.loss_good


@dataclass(frozen=True)
class Netem:
    """One direction's impairments; jitter keeps the order of packets unless ``reorder`` is set.

    Raises UserError for what netem does not do.
    """

    delay_ns: int = 0
    jitter_ns: int = 0
    jitter_correlation: float = 0.0
    distribution: str = "uniform"
    loss: float = 0.0
    loss_correlation: float = 0.0
    gilbert: Gilbert | None = None
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.jitter_ns > self.delay_ns:
            raise UserError(
                f"jitter: expected at most the delay ({self.delay_ns} ns), got {self.jitter_ns} "
                "ns: a packet cannot arrive before it was sent"
            )
        if self.reorder and not self.delay_ns:
            raise UserError("reorder: needs a delay: the packets chosen go ahead of delayed ones")
        if self.loss and self.gilbert:
            raise UserError("loss: expected a share or a Gilbert–Elliott model, got both")
        if self.distribution not in DISTRIBUTIONS:
            raise UserError(
                f"distribution: expected {', '.join(DISTRIBUTIONS)}, got {self.distribution!r}"
            )

    @property
    def is_idle(self) -> bool:
        """Whether packets pass as they came: then no netem is needed."""
        return not (self.delay_ns or self.loss or self.gilbert or self.duplicate or self.corrupt)

    @property
    def keeps_order(self) -> bool:
        """Whether jitter is to leave the order of packets as it is."""
        return self.jitter_ns > 0 and not self.reorder

    def to_json(self) -> dict[str, Any]:
        """As :func:`netem_from_json` takes it."""
        return asdict(self)


def netem_from_json(document: Mapping[str, Any]) -> Netem:
    """Impairments from :meth:`Netem.to_json`; raises UserError for an unknown key."""
    if unknown := set(document) - {field.name for field in fields(Netem)}:
        raise UserError(f"link: netem: unknown keys {', '.join(sorted(unknown))}")
    gilbert = document.get("gilbert")
    return Netem(**{**document, "gilbert": Gilbert(**gilbert) if gilbert else None})


def delay_table(distribution: str) -> tuple[int, ...]:
    """Inverse distribution function for the kernel's jitter, in 1/8192 of a standard deviation.

    ``pareto`` is the formula of iproute2's table (netem/pareto.c). Empty for ``uniform``, which
    is the kernel's own.
    """
    at = [(i + 0.5) / _TABLE_SIZE for i in range(_TABLE_SIZE)]
    if distribution == "normal":
        values = [NormalDist().inv_cdf(share) for share in at]
    elif distribution == "pareto":
        values = [((1 - share) ** (-1 / _PARETO_SHAPE) - 1.5) * 4 / 3 for share in at]
    else:
        return ()
    return tuple(max(-_TABLE_MAX, min(_TABLE_MAX, round(_TABLE_SCALE * v))) for v in values)


def render_netem(netem: Netem, limit: int) -> str:
    """The options after ``netem``, as a person would type them to ``tc``."""
    parts = [f"limit {limit}"]
    if netem.delay_ns:
        parts.append(f"delay {netem.delay_ns / 1e6:g}ms")
    if netem.jitter_ns:
        parts.append(f"{netem.jitter_ns / 1e6:g}ms")
        if netem.jitter_correlation:
            parts.append(_percent(netem.jitter_correlation))
        if netem.distribution != "uniform":
            parts.append(f"distribution {netem.distribution}")
    if netem.loss:
        correlation = f" {_percent(netem.loss_correlation)}" if netem.loss_correlation else ""
        parts.append(f"loss random {_percent(netem.loss)}{correlation}")
    if netem.gilbert:
        model = netem.gilbert
        shares = (model.to_bad, model.to_good, model.loss_bad, model.loss_good)
        parts.append(f"loss gemodel {' '.join(map(_percent, shares))}")
    for name in ("duplicate", "corrupt", "reorder"):
        if share := getattr(netem, name):
            parts.append(f"{name} {_percent(share)}")
    if netem.keeps_order:
        parts.append(f"rate {ORDER_RATE_BYTES_PER_S * 8}bit")
    if netem.seed is not None:
        parts.append(f"seed {netem.seed}")
    return " ".join(parts)


# netem keeps the order of packets only where it also has a rate: then it counts each packet's
# time from the last one's. At this one a packet of 1514 bytes takes 0.4 µs.
ORDER_RATE_BYTES_PER_S = 4 * 10**9


def _percent(share: float) -> str:
    return f"{share * 100:.6g}%"
