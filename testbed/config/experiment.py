"""The experiment file: what is run, under which links, loads and policies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from testbed.config.fields import DurationNs, Name, RateBps, SizeBytes, Strict, read_yaml
from testbed.encodings import parse_features, parse_input
from testbed.errors import UserError

SECOND_NS = 10**9


class ModelSpec(Strict):
    """The network: a torchvision classifier by name, at its native resolution by default."""

    name: str
    resolution: Annotated[int, Field(ge=32, le=2048)] | None = None
    weights: str = "random"
    seed: int = 0


class EncodingSpec(Strict):
    """What crosses the link: pixels for ``offload``, features for a split."""

    input: Annotated[str, AfterValidator(lambda name: parse_input(name).name)] = "uint8"
    features: Annotated[str, AfterValidator(lambda name: parse_features(name).name)] = "float32"


class DirectionSpec(Strict):
    """One direction of the link: a constant rate or one direction of a bandwidth trace."""

    rate: RateBps | None = None
    trace: Path | None = None
    direction: Literal["up", "down"] | None = None  # of the trace; default: this direction's own
    delay: DurationNs = 0
    jitter: DurationNs = 0
    loss: Annotated[float, Field(ge=0, lt=1)] = 0.0
    queue: SizeBytes = 256_000

    @model_validator(mode="after")
    def _one_source(self) -> DirectionSpec:
        if (self.rate is None) == (self.trace is None):
            raise ValueError('expected exactly one of rate (such as "20mbit") and trace (a file)')
        return self


class LinkSpec(Strict):
    """Both directions of the shaped link."""

    uplink: DirectionSpec
    downlink: DirectionSpec
    step: Annotated[DurationNs, Field(ge=10_000_000, le=10 * SECOND_NS)] = 100_000_000
    end: Literal["loop", "hold", "stop"] = "loop"
    congestion_control: str | None = None


class LoadStep(Strict):
    """From ``t`` on, this many closed-loop clients run the model on the server."""

    t: DurationNs
    clients: Annotated[int, Field(ge=0, le=64)]


class LoadSpec(Strict):
    """Synthetic server load, stepping along a load trace that repeats."""

    kind: Literal["none", "inference"] = "none"
    steps: tuple[LoadStep, ...] = ()
    period: DurationNs | None = None

    @model_validator(mode="after")
    def _steps_ordered(self) -> LoadSpec:
        if self.kind == "none" and self.steps:
            raise ValueError("steps: only with kind: inference")
        if self.kind == "inference":
            times = [step.t for step in self.steps]
            if not times or times[0] != 0 or sorted(set(times)) != times:
                raise ValueError("steps: expected at least one, the first at 0s, times rising")
            if self.period is not None and self.period <= times[-1]:
                raise ValueError("period: must be after the last step")
        return self


class ProbeSpec(Strict):
    """Uplink probes that keep the rate estimate fresh while a policy dwells on ``local``."""

    size: Annotated[SizeBytes, Field(ge=20_000, le=2**20)] = 40_000
    interval: Annotated[DurationNs, Field(gt=0)] = SECOND_NS
    budget: SizeBytes = 4_000_000


class RunSpec(Strict):
    """Length and repetition of each run."""

    duration: Annotated[DurationNs, Field(ge=100_000_000)] = 12 * SECOND_NS
    warmup_queries: Annotated[int, Field(ge=1)] = 5
    trials: Annotated[int, Field(ge=1)] = 1
    # How often a run that failed or was disturbed from outside is done again; all are kept.
    repeat_disturbed: Annotated[int, Field(ge=0, le=10)] = 1
    timeout: Annotated[DurationNs, Field(ge=100_000_000)] = 10 * SECOND_NS


class ProfileSpec(Strict):
    """How often each candidate is measured before the first run, and at which constant rate."""

    queries: Annotated[int, Field(ge=4)] = 12
    rate: RateBps = 20_000_000


class Experiment(Strict):
    """One experiment, as a person wrote it."""

    name: Name
    description: str = ""
    model: ModelSpec
    candidates: Literal["compressive", "natural"] | tuple[str, ...] = "compressive"
    encoding: EncodingSpec = EncodingSpec()
    batch: Annotated[int, Field(ge=1, le=256)] = 1
    links: dict[Name, LinkSpec] = Field(min_length=1)
    loads: dict[Name, LoadSpec] = Field(default={"none": LoadSpec()}, min_length=1)
    policies: tuple[str, ...] = Field(min_length=1)
    probe: ProbeSpec = ProbeSpec()
    run: RunSpec = RunSpec()
    profile: ProfileSpec = ProfileSpec()
    seed: int = 1

    @field_validator("policies")
    @classmethod
    def _known_policies(cls, policies: tuple[str, ...]) -> tuple[str, ...]:
        for policy in policies:
            if policy not in ("local", "offload", "dynamic") and not (
                policy.startswith("static:") and len(policy) > len("static:")
            ):
                raise ValueError(
                    f"unknown policy {policy!r}; expected local, offload, dynamic, "
                    "static:<split> or static:* for every split"
                )
        if len(set(policies)) != len(policies):
            raise ValueError("a policy is listed twice")
        return policies


def load_experiment(path: Path) -> Experiment:
    """Read an experiment file; trace files are found relative to it.

    Raises UserError naming the file and the YAML path of every fault.
    """
    experiment = read_yaml(path, Experiment)
    links = {}
    for name, link in experiment.links.items():
        directions = {}
        for side in ("uplink", "downlink"):
            spec: DirectionSpec = getattr(link, side)
            if spec.trace is not None:
                trace = (path.parent / spec.trace).resolve()
                if not trace.is_file():
                    raise UserError(f"{path}: links.{name}.{side}.trace: no such file: {trace}")
                spec = spec.model_copy(update={"trace": trace})
            directions[side] = spec
        links[name] = link.model_copy(update=directions)
    return experiment.model_copy(update={"links": links})
