"""What a person asks of the link: rates, impairments, queues and outages of each direction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from testbed.config.fields import (
    DurationNs,
    Flag,
    Name,
    RateBps,
    Seed,
    Share,
    SizeBytes,
    Strict,
    lasting,
    sized,
    written,
)

SECOND_NS = 10**9


class GilbertSpec(Strict):
    """Bursty loss: chances a packet of entering and leaving the bad state, and loss in each."""

    to_bad: Annotated[Share, Field(gt=0)]
    to_good: Annotated[Share, Field(gt=0)]
    loss_bad: Share = 1.0
    loss_good: Share = 0.0

    @property
    def mean(self) -> float:
        """The long-run share of packets lost."""
        bad = self.to_bad / (self.to_bad + self.to_good)
        return bad * self.loss_bad + (1 - bad) * self.loss_good


class DirectionSpec(Strict):
    """One direction of the link: a constant rate or one direction of a bandwidth trace.

    All but the rate is netem's. Jitter keeps the order of packets unless ``reorder`` is given.
    """

    rate: RateBps | None = None
    trace: Path | None = None
    # Of the trace: this direction's own by default; the other one only if it is said aloud.
    direction: Literal["up", "down", "as-uplink", "as-downlink"] | None = None
    delay: Annotated[DurationNs, lasting("0s", "60s")] = 0
    jitter: Annotated[DurationNs, lasting("0s", "60s")] = 0
    jitter_correlation: Share = 0.0
    distribution: Literal["uniform", "normal", "pareto"] = "uniform"
    loss: Annotated[Share, Field(lt=1)] = 0.0
    loss_correlation: Share = 0.0
    gilbert: GilbertSpec | None = None
    duplicate: Share = 0.0
    reorder: Share = 0.0
    corrupt: Share = 0.0
    seed: Seed | None = None
    queue: Annotated[SizeBytes, sized("1500B", "1GB")] = 256_000
    queue_time: Annotated[DurationNs, lasting("1ms", "60s")] | None = (
        None  # at the highest rate, in place of queue
    )

    @property
    def mean_loss(self) -> float:
        """The share of packets that is to be lost."""
        return self.gilbert.mean if self.gilbert else self.loss

    @model_validator(mode="after")
    def _possible(self) -> DirectionSpec:
        if self.jitter > self.delay:
            raise ValueError("jitter: expected at most the delay: nothing arrives before it left")
        if self.loss and self.gilbert:
            raise ValueError("expected one of loss (a share) and gilbert (bursts), got both")
        if self.reorder and not self.delay:
            raise ValueError("reorder: needs a delay: the packets chosen overtake delayed ones")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> DirectionSpec:
        if (self.rate is None) == (self.trace is None):
            raise ValueError('expected exactly one of rate (such as "20mbit") and trace (a file)')
        return self


class OutageSpec(Strict):
    """A stretch in which the link, both directions of it, is gone."""

    at: Annotated[DurationNs, lasting("0s", "24h")]
    length: Annotated[DurationNs, lasting("10ms", "24h")]


class LinkSpec(Strict):
    """Both directions of the shaped link."""

    uplink: DirectionSpec
    downlink: DirectionSpec
    step: Annotated[DurationNs, lasting("10ms", "10s")] = 100_000_000
    end: Literal["loop", "hold", "stop"] = "loop"
    # What the trace's gaps (None: floored) and the planned outages do.
    outage: Literal["drop", "hold", "down"] | None = None
    outages: tuple[OutageSpec, ...] = ()
    congestion_control: (
        Annotated[str, written(r"[a-z0-9_]{1,15}", "a name such as cubic")] | None
    ) = None
    delay_compensation: Flag = False  # the path's own delay is part of the delay asked for
    # With several routers: a further router → the name of the link that it has instead.
    at: dict[Name, Name] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _outages_of_a_kind(self) -> LinkSpec:
        if self.outages and self.outage is None:
            raise ValueError("outage: expected drop, hold or down: what the planned outages do")
        return self

    @model_validator(mode="after")
    def _own_direction(self) -> LinkSpec:
        sides = (("uplink", self.uplink, "up"), ("downlink", self.downlink, "down"))
        for side, spec, own in sides:
            if spec.direction not in (None, own, f"as-{side}"):
                raise ValueError(
                    f"{side}.direction: expected {own} (the default), or as-{side} to use the "
                    f"trace's other direction as {side}, got {spec.direction}"
                )
        return self
