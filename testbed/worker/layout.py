"""What may cross the wire in this experiment: one layout a candidate. Standard library only."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

from testbed.errors import UserError
from testbed.model.table import LOCAL, OFFLOAD, SplitTable
from testbed.worker.wire import (
    MAX_DIMS,
    MAX_PROBE_BYTES,
    VERIFY,
    BadFrame,
    Dtype,
    Header,
    Kind,
    describe,
)

_ITEM_BYTES = {Dtype.UINT8: 1, Dtype.FLOAT16: 2, Dtype.FLOAT32: 4}
FLOAT32_BYTES = _ITEM_BYTES[Dtype.FLOAT32]
_REPLY = struct.Struct("<qqqqq32s")
REPLY_BYTES = _REPLY.size


@dataclass(frozen=True)
class Layout:
    """The tensor of one candidate as it crosses; ``shape`` is ``(N, ...)``."""

    split: str
    wire_id: int
    dtype: Dtype
    shape: tuple[int, ...]
    payload_bytes: int

    def header(self, flags: int) -> Header:
        """What a query's frame describes."""
        return Header(Kind.QUERY, flags, self.dtype, self.wire_id, self.shape, self.payload_bytes)

    @cached_property
    def description(self) -> bytes:
        """The same, packed for the wire, for every query that asks for no digest."""
        return describe(self.header(0))

    @property
    def encoding(self) -> str:
        """The element type's name in records."""
        return self.dtype.name.lower()


def layouts(
    table: SplitTable, candidates: Collection[str], encoding: Mapping[str, str], batch: int
) -> dict[str, Layout]:
    """The layout of every candidate that crosses the wire, by split.

    Raises UserError for an encoding this release does not know, or a cut of several tensors.
    """
    found = {}
    for position, point in enumerate(table.points):
        if point.split not in candidates or point.split == LOCAL:
            continue
        name = encoding["input" if point.split == OFFLOAD else "features"]
        if name.upper() not in Dtype.__members__:
            raise UserError(f"encoding: expected uint8, float16 or float32, got {name!r}")
        if len(point.shapes) != 1 or len(point.shapes[0]) >= MAX_DIMS:
            raise UserError(
                f"split {point.split}: expected one tensor of under {MAX_DIMS} dimensions to "
                f"cross, got {point.shapes}; choose other candidates"
            )
        dtype, shape = Dtype[name.upper()], (batch, *point.shapes[0])
        found[point.split] = Layout(
            point.split, position, dtype, shape, prod(shape) * _ITEM_BYTES[dtype]
        )
    return found


class Allowed:
    """Which frames the server takes after the token: the experiment's own queries and probes."""

    def __init__(self, known: Iterable[Layout]) -> None:
        self.by_id = {layout.wire_id: layout for layout in known}
        self._queries = {
            layout.header(flags) for layout in self.by_id.values() for flags in (0, VERIFY)
        }

    def __call__(self, header: Header) -> None:
        """Raise BadFrame unless the header is one that the layouts allow."""
        if header in self._queries:
            return
        if header.kind == Kind.PROBE:
            if not 0 < header.payload_bytes <= MAX_PROBE_BYTES:
                raise BadFrame(
                    f"probe: expected 1 to {MAX_PROBE_BYTES} bytes, got {header.payload_bytes}"
                )
            return
        if header.kind != Kind.QUERY:
            raise BadFrame(f"frame kind: expected a query or a probe, got {header.kind}")
        layout = self.by_id.get(header.split)
        if layout is None:
            raise BadFrame(f"split id: expected one of {sorted(self.by_id)}, got {header.split}")
        raise BadFrame(
            f"split {layout.split}: expected {layout.encoding} {layout.shape} in "
            f"{layout.payload_bytes} bytes, got dtype {header.dtype} {header.shape} in "
            f"{header.payload_bytes}, flags {header.flags}"
        )


def reply_header(payload_bytes: int) -> Header:
    """The description of a reply's frame: the server's times, then float32 logits."""
    return Header(Kind.REPLY, 0, Dtype.FLOAT32, 0, (), payload_bytes)


class ServerTimes(NamedTuple):
    """What the server tells of one query, on its own clock.

    ``wait_ns + decode_ns + tail_ns`` is the whole residence, from the last byte's arrival to
    the reply's first: the wait holds the queue, both hand-overs and the reply's copy.
    """

    wait_ns: int
    decode_ns: int
    tail_ns: int
    span_bytes: int | None
    span_ns: int | None
    digest: bytes

    def pack(self) -> bytes:
        """The fixed struct that begins every reply; an absent span is 0."""
        span = (self.span_bytes or 0, self.span_ns or 0)
        return _REPLY.pack(self.wait_ns, self.decode_ns, self.tail_ns, *span, self.digest)

    @classmethod
    def unpack(cls, payload: memoryview) -> ServerTimes:
        """The struct at the start of a reply's payload."""
        wait, decode, tail, span_bytes, span_ns, digest = _REPLY.unpack_from(payload)
        return cls(wait, decode, tail, span_bytes or None, span_ns or None, digest)
