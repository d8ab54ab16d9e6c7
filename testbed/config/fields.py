"""Field types shared by the files: units parsed at the border, unknown keys refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)

from testbed.errors import UserError
from testbed.records import SCHEMA_VERSION
from testbed.units import parse_duration_ns, parse_rate_bps, parse_size_bytes


class Strict(BaseModel):
    """Frozen; an unknown key is refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def _border(parse: Any) -> BeforeValidator:
    def read(value: object, info: ValidationInfo) -> int:
        # A person's file says its units; a resolved experiment reads back in base units.
        if type(value) is int and not (info.context or {}).get("path"):
            return value
        number: int = parse(value)
        return number

    return BeforeValidator(read, json_schema_input_type=str)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice: YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is written twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


RateBps = Annotated[int, _border(parse_rate_bps), Field(gt=0)]
DurationNs = Annotated[int, _border(parse_duration_ns), Field(ge=0)]
SizeBytes = Annotated[int, _border(parse_size_bytes), Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
# No dots: names of links and loads are joined with dots in run ids.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=40)]

Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path, model: type[Model]) -> Model:
    """Read one file into its model; every fault names the file and the YAML path."""
    try:
        document = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: expected a mapping, got {type(document).__name__}")
    version = document.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version: expected {SCHEMA_VERSION}, got {version!r}; "
            "write 'schema_version: 1', or use the testbed release that wrote the file"
        )
    try:
        return model.model_validate(document, context={"path": path})
    except ValidationError as error:
        raise UserError(_explain(path, error)) from error


# What pydantic says to programmers, said to people.
_PLAIN = {
    "greater_than": "expected more than 0",
    "too_short": "expected at least one",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping",
    "bool_parsing": "expected true or false",
}


def _explain(path: Path, error: ValidationError) -> str:
    faults = []
    for fault in error.errors(include_url=False):
        where = ".".join(str(part) for part in fault["loc"]) or "file"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "unknown key; check its spelling against the README's reference"
        elif fault["type"] in _PLAIN:
            message = f"{_PLAIN[fault['type']]}, got {fault['input']!r}"
        faults.append(f"{where}: {message}")
    return f"{path}: " + "; ".join(faults)
