"""Field types shared by the files: units parsed at the border, bounds told in them."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from testbed.config.document import read_mapping
from testbed.encodings import parse_features, parse_input
from testbed.errors import UserError
from testbed.records import SCHEMA_VERSION
from testbed.units import parse_duration_ns, parse_rate_bps, parse_size_bytes


class Strict(BaseModel):
    """Frozen; an unknown key is refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def _border(parse: Callable[[object], int]) -> BeforeValidator:
    def read(value: object, info: ValidationInfo) -> int:
        # A person's file says its units; a resolved experiment reads back in base units.
        if type(value) is int and not (info.context or {}).get("path"):
            return value
        return parse(value)

    return BeforeValidator(read, json_schema_input_type=str)


def _between(parse: Callable[[object], int], least: str, most: str) -> AfterValidator:
    low, high = parse(least), parse(most)

    def check(value: int) -> int:
        if not low <= value <= high:
            raise PydanticCustomError("bounds", f"expected {least} to {most}")
        return value

    return AfterValidator(check)


def lasting(least: str, most: str) -> AfterValidator:
    """Bounds of a duration, both included."""
    return _between(parse_duration_ns, least, most)


def sized(least: str, most: str) -> AfterValidator:
    """Bounds of a size, both included."""
    return _between(parse_size_bytes, least, most)


def written(pattern: str, told: str) -> AfterValidator:
    """Text that a pattern takes as a whole; ``told`` is what people are to write."""
    wanted = re.compile(pattern)

    def check(text: str) -> str:
        if not wanted.fullmatch(text):
            raise PydanticCustomError("form", f"expected {told}")
        return text

    return AfterValidator(check)


Item = TypeVar("Item", bound=Hashable)


def _once(items: tuple[Item, ...]) -> tuple[Item, ...]:
    seen: set[Item] = set()
    for item in items:
        if item in seen:
            raise ValueError(f"{reprlib.repr(item)} is listed twice")
        seen.add(item)
    return items


def _some(items: object, info: ValidationInfo) -> object:
    # A resolved experiment reads back with what was left out as an empty list.
    if items == [] and (info.context or {}).get("path"):
        raise ValueError("expected at least 1, got []; left out, it means the default")
    return items


EachOnce = AfterValidator(_once)
NoneOrSome = BeforeValidator(_some)  # left out or with entries, never written empty
# No true for 1, no "3" for 3, no 2.5 for 2.
Whole = Annotated[int, pydantic.Strict()]
Number = Annotated[float, pydantic.Strict(), Field(allow_inf_nan=False)]
Flag = Annotated[bool, pydantic.Strict()]
Share = Annotated[Number, Field(ge=0, le=1)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
DurationNs = Annotated[int, _border(parse_duration_ns)]  # with bounds: lasting
SizeBytes = Annotated[int, _border(parse_size_bytes)]  # with bounds: sized
RateBps = Annotated[int, _border(parse_rate_bps), _between(parse_rate_bps, "1kbit", "1000gbit")]
Batch = Annotated[Whole, Field(ge=1, le=256)]
InputEncoding = Annotated[str, AfterValidator(lambda name: parse_input(name).name)]
FeatureEncoding = Annotated[str, AfterValidator(lambda name: parse_features(name).name)]
Text = Annotated[str, written(r"\S(.*\S)?", "a line of text")]
# No dots: names of links and loads are joined with dots in run ids.
Name = Annotated[
    str, written(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", "letters, digits, - and _, 40 at most")
]

Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path, model: type[Model]) -> Model:
    """Read one file into its model; every fault names the file and the YAML path."""
    document = read_mapping(path)
    version = document.pop("schema_version", None)
    if type(version) is not int or version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version: expected {SCHEMA_VERSION}, got {reprlib.repr(version)}; "
            "write 'schema_version: 1', or use the testbed release that wrote the file"
        )
    try:
        return model.model_validate(document, context={"path": path})
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}") from error


# What pydantic says to programmers, said to people.
_PLAIN = {
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "path_type": "expected the path of a file",
    "invalid_key": "expected text as key",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "too_short": "expected at least {min_length}",
    "too_long": "expected at most {max_length}",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected {ge} or more",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected {le} or less",
    "literal_error": "expected {expected}",
}
_TOLD_FAULTS = 5


def explain(error: ValidationError, below: int = 0) -> str:
    """The first faults in one line, each with its YAML path below the first ``below`` names."""
    # pydantic counts only the good entries of a list; the bad ones are told themselves.
    found = [
        fault
        for fault in error.errors(include_url=False)
        if fault["type"] != "too_short" or len(fault["input"]) < fault["ctx"]["min_length"]
    ]
    told = [_fault(fault, below) for fault in found[:_TOLD_FAULTS]]
    more = len(found) - len(told)
    return "; ".join([*told, *([f"and {more} faults more"] if more else [])])


def _fault(fault: Any, below: int) -> str:
    path = [str(part) for part in fault["loc"][below:] if part != "[key]"]
    where = f"{'.'.join(path)}: " if path else ""
    kind = fault["type"]
    if kind == "missing":
        return f"{where}missing"
    if kind == "extra_forbidden":
        return f"{where}unknown key; check its spelling against the README's reference"
    if kind == "value_error":
        return f"{where}{fault['msg'].removeprefix('Value error, ')}"
    expected = _PLAIN[kind].format(**fault.get("ctx", {})) if kind in _PLAIN else fault["msg"]
    return f"{where}{expected}, got {reprlib.repr(fault['input'])}"
