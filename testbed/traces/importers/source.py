"""One original file being read: its lines, what is wrong with one, which of its runs is meant."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal, TextIO

from testbed.errors import UserError
from testbed.traces.numbers import parse_number, shown

Gaps = Literal["hold", "zero", "refuse"]
_HEAD_CHARS = 65_536
_TOLD_GROUPS = 8

# Spelt out: "mbps" means megabits to one author and megabytes to the next.
UNITS_BPS: dict[str, int] = {
    "bit/s": 1, "kbit/s": 10**3, "Mbit/s": 10**6, "Gbit/s": 10**9,
    "B/s": 8, "kB/s": 8 * 10**3, "MB/s": 8 * 10**6,
}  # fmt: skip


class BadLine(ValueError):
    """A line that is not what its format says; :meth:`Source.judge` refuses or counts it."""

    def __init__(self, expected: str, actual: object) -> None:
        super().__init__(f"expected {expected}, got {shown(actual)}")


@dataclass(frozen=True)
class Request:
    """What the caller says about a file; None means not said."""

    format: str | None = None
    direction: str | None = None
    select: Mapping[str, str] = field(default_factory=dict)
    skip_bad: bool = False
    gaps: Gaps | None = None
    unit: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)  # direction → column
    time: str | None = None
    time_unit: str | None = None
    step_ns: int | None = None
    floor_bps: int | None = None


class _Judge:
    def __init__(self, source: Source, number: int) -> None:
        self._source = source
        self._number = number

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, BadLine):
            return False
        self._source.bad(self._number, error)
        return True


class Source:
    """An original file; ``skipped`` counts the malformed lines that were left out."""

    def __init__(self, path: Path, skip_bad: bool = False) -> None:
        self.path = path
        self.skipped = 0
        self._skip_bad = skip_bad

    def head(self) -> list[str]:
        """Whole lines of the file's beginning, blank ones left out."""
        with self._opened() as file:
            text = file.read(_HEAD_CHARS)
            lines = text.splitlines()
            if len(text) == _HEAD_CHARS and len(lines) > 1:
                lines.pop()
        return [line.strip() for line in lines if line.strip()]

    def lines(self) -> Iterator[tuple[int, str]]:
        """Every line with its number, the line's end taken off; large files are not held."""
        with self._opened() as file:
            for number, line in enumerate(file, start=1):
                yield number, line.rstrip("\r\n")

    @contextmanager
    def _opened(self) -> Iterator[TextIO]:
        # It is read twice, and to its end: a pipe or a device has no two or none.
        if self.path.exists() and not (self.path.is_file() or self.path.is_dir()):
            raise UserError(f"{self.path}: expected a file, got a pipe or a device; save it first")
        try:
            with self.path.open(encoding="utf-8-sig") as file:
                yield file
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: expected text in UTF-8, got other bytes") from error

    def judge(self, number: int) -> _Judge:
        """A BadLine raised inside ends the import with its line, or is counted and left out."""
        return _Judge(self, number)

    def bad(self, number: int, fault: BadLine) -> None:
        """Count a malformed line, or raise UserError with its number."""
        if not self._skip_bad:
            raise UserError(f"{self.path}:{number}: {fault}") from fault
        self.skipped += 1

    def sha256(self) -> str:
        """Hash of the original's bytes."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()


class Table:
    """A CSV file with a header line: cells by column name."""

    def __init__(self, source: Source, wanted: Sequence[str]) -> None:
        self._source = source
        self._lines = ((n, line) for n, line in source.lines() if line.strip())
        number, header = next(self._lines, (1, ""))
        # A header tells its separator: it has no numbers to confuse it with.
        self._delimiter = max(",;\t", key=header.count)
        try:
            names = self._cells(header)
        except BadLine as fault:
            raise UserError(f"{source.path}:{number}: {fault}") from fault
        self._width = len(names)
        missing = [name for name in wanted if name not in names]
        if missing:
            raise UserError(
                f"{source.path}:{number}: expected a header with {', '.join(missing)}, "
                f"got {header[:200]!r}"
            )
        self._at = [names.index(name) for name in wanted]

    def _cells(self, line: str) -> list[str]:
        try:
            return [cell.strip() for cell in next(csv.reader([line], delimiter=self._delimiter))]
        except csv.Error as error:
            raise BadLine(f"a line of CSV ({error})", line) from error

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line numbers and the cells of the columns asked for, in their order."""
        for number, line in self._lines:
            with self._source.judge(number):
                cells = self._cells(line)
                if len(cells) != self._width:
                    raise BadLine(f"{self._width} values", line[:200])
                yield number, [cells[at] for at in self._at]


class Groups:
    """Picks the one run, session or place that is meant out of a file that holds several."""

    def __init__(self, source: Source, keys: Sequence[str], select: Mapping[str, str]) -> None:
        self._path = source.path
        self._keys = keys
        self._select = select
        self._chosen: tuple[str, ...] | None = None
        self._others: dict[tuple[str, ...], None] = {}  # some that do not match, in order

    def wants(self, values: Sequence[str]) -> bool:
        """Whether a row belongs to the one group selected; raises UserError at too many."""
        group = tuple(values)
        if group == self._chosen:
            return True
        named = dict(zip(self._keys, group, strict=True))
        if any(named[key] != value for key, value in self._select.items()):
            if len(self._others) < _TOLD_GROUPS:
                self._others[group] = None
            return False
        if self._chosen is not None:
            raise UserError(
                f"{self._path}: expected one {'/'.join(self._keys)}, got several, such as "
                f"{self._told(self._chosen)} and {self._told(group)}; choose with --select"
            )
        self._chosen = group
        return True

    @property
    def chosen(self) -> dict[str, str]:
        """The group that was read, by key; raises UserError where no row was in it."""
        if self._chosen is None:
            wanted = ", ".join(f"{key}={value}" for key, value in self._select.items())
            others = "; ".join(map(self._told, self._others))
            raise UserError(
                f"{self._path}: expected {wanted or 'a row of samples'}, got {others or 'none'}"
            )
        return dict(zip(self._keys, self._chosen, strict=True))

    def _told(self, group: tuple[str, ...]) -> str:
        return " ".join(f"{key}={value}" for key, value in zip(self._keys, group, strict=True))


def number(text: str, what: str = "a number of 0 or more") -> Decimal:
    """A number of 0 or more and below 10**19, exact; raises BadLine."""
    value = parse_number(text)
    if value is None:
        raise BadLine(what, text)
    return value


def is_number(text: str) -> bool:
    """Whether the text is a finite number."""
    try:
        return Decimal(text).is_finite()
    except InvalidOperation:
        return False
