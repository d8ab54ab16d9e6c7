"""What a person asks of the server's synthetic load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from testbed.config.fields import DurationNs, EachOnce, Share, Strict, Whole, lasting

Clients = Annotated[Whole, Field(ge=0, le=64)]


class LoadStep(Strict):
    """From ``t`` on, this many closed-loop clients, or this share of the resource."""

    t: Annotated[DurationNs, lasting("0s", "24h")]
    clients: Clients | None = None
    level: Share | None = None


class MarkovSpec(Strict):
    """Shares that follow each other at random, each held for a time of mean ``dwell``."""

    levels: Annotated[tuple[Share, ...], EachOnce] = Field(min_length=2)
    dwell: Annotated[DurationNs, lasting("100ms", "1h")]


class LoadSpec(Strict):
    """Synthetic server load: what it occupies, and how much of it when.

    ``inference`` queues the model on the server's own executor: ``closed`` is a number of
    ``clients`` that ask again at once, ``poisson`` a ``level`` of the executor's time. ``cpu``,
    ``memory`` and ``gpu`` keep ``threads`` busy for a ``level`` of the time.
    """

    kind: Literal["none", "inference", "cpu", "memory", "gpu"] = "none"
    arrivals: Literal["closed", "poisson"] = "closed"
    threads: Annotated[Whole, Field(ge=1, le=64)] = 1
    clients: Clients | None = None
    level: Share | None = None
    steps: tuple[LoadStep, ...] = ()
    markov: MarkovSpec | None = None
    trace: Path | None = None  # CSV: t_s,level
    period: Annotated[DurationNs, lasting("100ms", "24h")] | None = None

    @property
    def counts_clients(self) -> bool:
        """Whether a level is a number of clients and no share of time."""
        return self.kind == "inference" and self.arrivals == "closed"

    @model_validator(mode="after")
    def _one_source(self) -> LoadSpec:
        constant = "clients" if self.counts_clients else "level"
        sources = [constant, "steps", *(() if self.counts_clients else ("markov", "trace"))]
        every = ("clients", "level", "steps", "markov", "trace")
        given = [name for name in every if getattr(self, name) not in (None, ())]
        if self.kind == "none":
            if given:
                raise ValueError(f"{given[0]}: only with a kind of load")
        elif len(given) != 1 or given[0] not in sources:
            raise ValueError(f"expected exactly one of {', '.join(sources)}, got {given or 'none'}")
        return self

    @model_validator(mode="after")
    def _steps_ordered(self) -> LoadSpec:
        if self.steps:
            times = [step.t for step in self.steps]
            if times[0] != 0 or sorted(set(times)) != times:
                raise ValueError("steps: expected the first at 0s, times rising")
            if self.period is not None and self.period <= times[-1]:
                raise ValueError("period: must be after the last step")
            name, other = ("clients", "level") if self.counts_clients else ("level", "clients")
            for step in self.steps:
                if getattr(step, name) is None or getattr(step, other) is not None:
                    raise ValueError(f"steps: each needs t and {name}, and no {other}")
        elif self.period is not None:
            raise ValueError("period: only with steps")
        return self
