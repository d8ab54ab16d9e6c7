"""YAML made the values that it says, within bounds; every fault has its line and column."""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import Any

import yaml

from testbed.errors import UserError

_MAX_BYTES = 2**20
_MAX_DEPTH = 20  # levels within each other; what a file can mean has seven
_MAX_NODES = 50_000  # with every alias written out

# Decimal numbers, as YAML 1.2 has them: 1.1 also reads 010 as eight and 1:30 as ninety.
_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"
        r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
    ),
}
_MERGE = "tag:yaml.org,2002:merge"
# No path, name or report can hold them; escapes in quotes write them.
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def _fault(told: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=told, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    """Refuses what YAML would take in silence, or take without end."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (the class attribute is PyYAML's)
        first: [(tag, _NUMBERS.get(tag, pattern)) for tag, pattern in resolvers]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._count = 0
        self._counts: dict[yaml.Node, int] = {}  # of the nodes in each, itself included

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._count
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _fault(f"expected at most {_MAX_DEPTH} levels, got more", event.start_mark)
        node = super().compose_node(parent, index)
        assert node is not None  # None is only after the last event, where nobody asks
        self._depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._count += 1
            self._counts[node] = self._count - before
        elif node not in self._counts:
            raise _fault(f"*{event.anchor} is within what it stands for", event.start_mark)
        else:
            self._count += self._counts[node]
        if self._count > _MAX_NODES:
            told = f"expected at most {_MAX_NODES} values, aliases written out, got more"
            raise _fault(told, event.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _fault("expected a name as key, got a list or mapping", key_node.start_mark)
            if key_node.tag == _MERGE:
                raise _fault("'<<' is not taken here; write the keys out", key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise _fault(f"key {reprlib.repr(key)} is written twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            told = f"expected a date or number that there is, got {reprlib.repr(node.value)}"
            raise _fault(told, node.start_mark) from error
        if isinstance(value, str) and _CONTROL.search(value):
            told = f"expected text without control characters, got {reprlib.repr(value)}"
            raise _fault(told, node.start_mark)
        return value


def parse_yaml(where: str, text: str) -> Any:
    """The values of a text; UserError names ``where`` (a file), line and column of a fault."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{mark.line + 1}:{mark.column + 1}: " if mark else ""
        told = ", ".join(filter(None, (error.context, error.problem)))
        remedy = "; indent with spaces" if "'\\t'" in told else ""
        raise UserError(f"{where}:{at}not valid YAML: {told}{remedy}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{where}:{line}: not valid YAML: expected text, got the character "
            f"#x{error.character:04x}"
        ) from error


def read_mapping(path: Path) -> dict[Any, Any]:
    """The mapping that a file is; raises UserError naming the file, and where in it."""
    try:
        if path.is_fifo() and not path.is_relative_to("/dev") and not path.is_relative_to("/proc"):
            raise UserError(
                f"{path}: expected a file, got a named pipe, which nobody may ever write to; give "
                "a file, or /dev/stdin"
            )
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise UserError(f"{path}: expected at most {_MAX_BYTES} bytes of YAML, got more")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: expected text in UTF-8, got the byte {content[error.start]:#04x}"
        ) from error
    document = parse_yaml(str(path), text)
    if not isinstance(document, dict):
        found = "nothing" if document is None else reprlib.repr(document)
        raise UserError(f"{path}: expected a mapping (key: value), got {found}")
    return document
