"""The experiment file: what is run, under which links, loads and policies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from testbed.config.fields import (
    Batch,
    EachOnce,
    FeatureEncoding,
    Flag,
    InputEncoding,
    Name,
    Seed,
    Strict,
    Text,
    Whole,
    read_yaml,
)
from testbed.config.link_spec import DirectionSpec, LinkSpec
from testbed.config.load_spec import LoadSpec
from testbed.config.run_spec import (
    ArrivalSpec,
    CrossSpec,
    ProbeSpec,
    ProfileSpec,
    RunSpec,
    SweepSpec,
)
from testbed.errors import UserError

POLICIES = (
    *("local", "offload", "dynamic", "dynamic+hysteresis", "robust", "deadline"),
    *("neurosurgeon", "ans", "clairvoyant", "random"),
)
_INPUTS = re.compile(r"synthetic|(images|pack):.+|python:[\w.]+:[\w.]+")
_WITH_ARGUMENT = re.compile(r"static:.+|python:[\w.]+:\w+")
FLEET = "fleet:"  # a policy of this prefix gives every device its own


class ModelSpec(Strict):
    """The network by name, at its native resolution by default, cut at blocks or everywhere.

    What is carried to the hosts is its ``archive``, which torch alone reads, or its weights, which
    go into the network that each host's own ``library`` builds.
    """

    name: Text
    resolution: Annotated[Whole, Field(ge=32, le=2048)] | None = None
    weights: Text = "random"
    seed: Seed = 0
    granularity: Literal["block", "layer"] = "block"
    carry: Literal["archive", "library"] = "archive"

    @model_validator(mode="after")
    def _carries_what_there_is(self) -> ModelSpec:
        if self.carry == "library" and self.name.startswith("export:"):
            raise ValueError(f"carry: {self.name} has no library; leave carry out")
        return self


class EncodingSpec(Strict):
    """What crosses the link: pixels for ``offload``, features for a split."""

    input: InputEncoding = "uint8"
    features: FeatureEncoding = "float32"


class EngineSpec(Strict):
    """What both hosts do to the network to run it faster; off by default."""

    channels_last: Flag = False
    compile: Flag = False
    fold_batchnorm: Flag = False


def _as_names(listed: object) -> object:
    """Block indices may be written as numbers."""
    if not isinstance(listed, list | tuple):
        return listed
    return [str(item) if type(item) is int else item for item in listed]


def _check_policy(policy: str) -> None:
    if policy not in POLICIES and not _WITH_ARGUMENT.fullmatch(policy):
        raise ValueError(
            f"unknown policy {policy!r}; expected {', '.join(POLICIES)}, static:<split> or "
            "static:* for every split, python:<module>:<class>, or fleet:<name>"
        )


class Experiment(Strict):
    """One experiment, as a person wrote it."""

    name: Name
    description: str = ""
    model: ModelSpec
    candidates: (
        Literal["compressive", "natural", "all"]
        | Annotated[tuple[str, ...], BeforeValidator(_as_names), EachOnce]
    ) = "compressive"
    encoding: EncodingSpec = EncodingSpec()
    engine: EngineSpec = EngineSpec()
    # synthetic, images:DIR, python:module:callable, or pack:FILE (one that a campaign kept)
    inputs: str = "synthetic"
    batch: Batch = 1
    links: dict[Name, LinkSpec] = Field(min_length=1)
    loads: dict[Name, LoadSpec] = Field(default={"none": LoadSpec()}, min_length=1)
    policies: Annotated[tuple[str, ...], EachOnce] = Field(min_length=1)
    # Fleet name → device's host → its policy; run as the policy ``fleet:<name>``.
    fleets: dict[Name, dict[Name, str]] = Field(default_factory=dict)
    crosses: Annotated[tuple[CrossSpec, ...], EachOnce] = Field(
        default=(CrossSpec(),), min_length=1
    )
    arrivals: ArrivalSpec = ArrivalSpec()
    probe: ProbeSpec = ProbeSpec()
    run: RunSpec = RunSpec()
    profile: ProfileSpec = ProfileSpec()
    sweep: SweepSpec = SweepSpec()
    seed: Seed = 1

    @field_validator("inputs")
    @classmethod
    def _known_inputs(cls, inputs: str) -> str:
        if not _INPUTS.fullmatch(inputs):
            raise ValueError(
                f"expected synthetic, images:<folder> or python:<module>:<callable>, got {inputs!r}"
            )
        return inputs

    @field_validator("policies")
    @classmethod
    def _known_policies(cls, policies: tuple[str, ...]) -> tuple[str, ...]:
        for policy in policies:
            if not policy.startswith(FLEET):
                _check_policy(policy)
        return policies

    @model_validator(mode="after")
    def _crosses_of_what_there_is(self) -> Experiment:
        for index, cross in enumerate(self.crosses):
            for part, known in (
                ("links", set(self.links)),
                ("loads", set(self.loads)),
                ("policies", set(self.policies)),
            ):
                unknown = [name for name in getattr(cross, part) if name not in known]
                if unknown:
                    raise ValueError(f"crosses.{index}.{part}: {unknown[0]!r} is not among {part}")
        return self

    @model_validator(mode="after")
    def _links_elsewhere(self) -> Experiment:
        for name, link in self.links.items():
            for router, there in link.at.items():
                other = self.links.get(there)
                if other is None or other.at:
                    plain = ", ".join(n for n, spec in self.links.items() if not spec.at)
                    raise ValueError(
                        f"links.{name}.at.{router}: expected a link that is alike at every router "
                        f"({plain or 'none'}), got {there!r}"
                    )
                for part in ("step", "congestion_control"):  # of the whole run
                    if getattr(other, part) != getattr(link, part):
                        raise ValueError(
                            f"links.{name}.at.{router}: {there} has another {part} than {name}; "
                            "give both the same"
                        )
        return self

    @model_validator(mode="after")
    def _fleets_named(self) -> Experiment:
        for name in self.policies:
            if name.startswith(FLEET) and name.removeprefix(FLEET) not in self.fleets:
                known = ", ".join(self.fleets) or "none"
                raise ValueError(f"policies: {name}: no such fleet; fleets are {known}")
        for fleet, members in self.fleets.items():
            for device, policy in members.items():
                if policy.startswith(FLEET) or policy == "static:*":
                    raise ValueError(f"fleets.{fleet}.{device}: expected one policy, got {policy}")
                try:
                    _check_policy(policy)
                except ValueError as error:
                    raise ValueError(f"fleets.{fleet}.{device}: {error}") from error
        return self

    def with_uplink_trace(self, link: str, file: Path) -> Experiment:
        """The same with a link's uplink following another bandwidth trace.

        Raises UserError where there is no such link or file, or where the link's rate is constant:
        its name says so.
        """
        found = self.links.get(link)
        if found is None or found.uplink.trace is None:
            known = ", ".join(n for n, spec in self.links.items() if spec.uplink.trace) or "none"
            raise UserError(f"--trace: {link}: no link with a trace; those with one are {known}")
        uplink = found.uplink.model_copy(update={"trace": _found_file("--trace", file)})
        return self.model_copy(
            update={"links": {**self.links, link: found.model_copy(update={"uplink": uplink})}}
        )

    def link_at(self, name: str, router: str) -> LinkSpec:
        """The link that a router has where the condition is ``name``."""
        return self.links[self.links[name].at.get(router, name)]

    def policy_of(self, policy: str, device: str) -> str:
        """What a device runs under a policy: itself, or what its fleet gives that device."""
        if not policy.startswith(FLEET):
            return policy
        return self.fleets[policy.removeprefix(FLEET)][device]

    @property
    def every_policy(self) -> tuple[str, ...]:
        """The policies as written, with those of the fleets in place of a fleet's name."""
        names = [p for p in self.policies if not p.startswith(FLEET)]
        for policy in self.policies:
            names += self.fleets.get(policy.removeprefix(FLEET), {}).values()
        return tuple(dict.fromkeys(names))

    @model_validator(mode="after")
    def _deadline_for_its_policy(self) -> Experiment:
        if "deadline" in self.every_policy and self.run.deadline is None:
            raise ValueError("run.deadline: the policy deadline needs one")
        return self


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
                key = f"{path}: links.{name}.{side}.trace"
                trace = _found_file(key, path.parent / spec.trace)
                spec = spec.model_copy(update={"trace": trace})
            directions[side] = spec
        links[name] = link.model_copy(update=directions)
    loads = {
        name: load.model_copy(
            update={"trace": _found_file(f"{path}: loads.{name}.trace", path.parent / load.trace)}
        )
        if load.trace
        else load
        for name, load in experiment.loads.items()
    }
    found = {"links": links, "loads": loads, "inputs": _found_inputs(path, experiment.inputs)}
    return experiment.model_copy(update=found)


def _found_inputs(path: Path, inputs: str) -> str:
    """Images are looked for relative to the experiment file."""
    source, _, rest = inputs.partition(":")
    if source != "images":
        return inputs
    folder = (path.parent / rest).resolve()
    if not folder.is_dir():
        raise UserError(f"{path}: inputs: no such folder: {folder}")
    return f"images:{folder}"


def _found_file(asked: str, file: Path) -> Path:
    if not file.is_file():
        raise UserError(f"{asked}: no such file: {file.resolve()}")
    return file.resolve()
