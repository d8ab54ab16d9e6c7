"""What a person asks of the runs: queries, probes, profile and sweep, and what meets what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from testbed.config.fields import (
    Batch,
    DurationNs,
    EachOnce,
    FeatureEncoding,
    Flag,
    InputEncoding,
    Name,
    NoneOrSome,
    Number,
    RateBps,
    Share,
    SizeBytes,
    Strict,
    Whole,
    lasting,
    sized,
)

_SECOND_NS = 10**9
_MOST_SWEPT_RATES = 10_000

Trials = Annotated[Whole, Field(ge=1, le=1000)]
Slowdown = Annotated[Number, Field(ge=1, le=1000)]


class ArrivalSpec(Strict):
    """When queries are due: one after another, at a camera's rhythm, or at random times.

    Of those that wait while one is served, the ``newest`` wins, or all ``queue``.
    """

    kind: Literal["closed", "periodic", "poisson"] = "closed"
    interval: Annotated[DurationNs, lasting("1ms", "1h")] | None = None
    waiting: Literal["newest", "queue"] = "newest"

    @model_validator(mode="after")
    def _interval_where_due(self) -> ArrivalSpec:
        if (self.interval is None) != (self.kind == "closed"):
            raise ValueError("interval: needed with periodic and poisson, and only there")
        return self


class ProbeSpec(Strict):
    """Uplink probes that keep the rate estimate fresh while a policy dwells on ``local``."""

    size: Annotated[SizeBytes, sized("20kB", "1MiB")] = 40_000
    interval: Annotated[DurationNs, lasting("1ms", "1h")] = _SECOND_NS
    budget: Annotated[SizeBytes, sized("0B", "1GB")] = 4_000_000


class RunSpec(Strict):
    """Length and repetition of each run."""

    duration: Annotated[DurationNs, lasting("100ms", "24h")] = 12 * _SECOND_NS
    warmup_queries: Annotated[Whole, Field(ge=1, le=1000)] = 5
    trials: Trials = 1
    # How often a run that failed or was disturbed from outside is done again; all are kept.
    repeat_disturbed: Annotated[Whole, Field(ge=0, le=10)] = 1
    timeout: Annotated[DurationNs, lasting("100ms", "1h")] = 10 * _SECOND_NS
    # A reply that comes later is not waited for, and a query that takes longer is late.
    deadline: Annotated[DurationNs, lasting("1ms", "1h")] | None = None
    hedge: Flag = False  # begin the tail on the device too, once the reply is later than expected


class ProfileSpec(Strict):
    """How often each candidate is measured before the first run, and at which constant rate.

    All but ``queries`` and ``rate`` is of ``testbed profile`` and ``testbed sweep``; ``loads`` are
    numbers of clients on the server, under each of which the first batch size is measured too.
    """

    queries: Annotated[Whole, Field(ge=4, le=10_000)] = 12
    rate: RateBps = 20_000_000
    batches: Annotated[tuple[Batch, ...], EachOnce, NoneOrSome] = ()  # default: the experiment's
    tolerance: Annotated[Share, Field(gt=0)] = 0.03
    budget: Annotated[DurationNs, lasting("1s", "24h")] = 60 * _SECOND_NS
    loads: Annotated[tuple[Annotated[Whole, Field(ge=1, le=64)], ...], EachOnce] = ()


class SweepSpec(Strict):
    """The grid of ``testbed sweep``: rates from ``low`` to ``high``, and server slowdowns.

    ``cells`` points of rate × batch are drawn by the seed and really run, ``queries`` of each
    candidate in each. ``inputs`` and ``features`` are the encodings told side by side.
    """

    low: RateBps = 8_000_000
    high: RateBps = 1_016_000_000
    step: RateBps = 8_000_000
    loads: Annotated[tuple[Slowdown, ...], EachOnce] = Field(
        default=(1, 1.5, 2, 3, 4, 6, 8), min_length=1
    )
    cells: Annotated[Whole, Field(ge=0, le=1000)] = 6
    queries: Annotated[Whole, Field(ge=1, le=10_000)] = 4
    inputs: Annotated[tuple[InputEncoding, ...], EachOnce] = Field(
        default=("uint8", "float32", "jpeg:75"), min_length=1
    )
    features: Annotated[tuple[FeatureEncoding, ...], EachOnce] = Field(
        default=("float32", "float16", "int8"), min_length=1
    )

    @model_validator(mode="after")
    def _rates_ordered(self) -> SweepSpec:
        if self.high < self.low:
            raise ValueError("high: expected a rate of at least low")
        count = (self.high - self.low) // self.step + 1
        if count > _MOST_SWEPT_RATES:
            raise ValueError(
                f"step: expected at most {_MOST_SWEPT_RATES} rates from low to high, got {count}"
            )
        return self


class CrossSpec(Strict):
    """Every one of these policies under every one of these links and loads; default: all there are.

    A policy under a condition that two crosses name is run once a trial, for as many trials as the
    larger of them asks.
    """

    links: Annotated[tuple[Name, ...], EachOnce, NoneOrSome] = ()
    loads: Annotated[tuple[Name, ...], EachOnce, NoneOrSome] = ()
    policies: Annotated[tuple[str, ...], EachOnce, NoneOrSome] = ()
    trials: Trials | None = None
