"""What may cross the wire in this experiment: one layout a candidate. Standard library only."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

from testbed.encodings import ITEM_BYTES, Encoding, parse_features, parse_input
from testbed.errors import UserError
from testbed.model.table import LOCAL, OFFLOAD, SplitTable
from testbed.worker.wire import (
    LZ4,
    MAX_DIMS,
    MAX_PROBE_BYTES,
    VERIFY,
    ZSTD,
    BadFrame,
    Dtype,
    Header,
    Kind,
    describe,
)

FLOAT32_BYTES = ITEM_BYTES["float32"]
_COMPRESSED = {None: 0, "zstd": ZSTD, "lz4": LZ4}
_REPLY = struct.Struct("<qqqqq32s")
REPLY_BYTES = _REPLY.size

# Each part begins where a tensor of torch's own would.
_ALIGNMENT_BYTES = 64
# A JPEG can outgrow its pixels: noise at quality 100 does, by less than this.
_JPEG_GROWTH, _JPEG_HEADER_BYTES = 2, 4096


class Part(NamedTuple):
    """Where one tensor of a raw payload lies; its ``scales`` float32 pairs lie before it."""

    shape: tuple[int, ...]
    scales_at: int
    scales: int
    at: int


@dataclass(frozen=True)
class Layout:
    """The tensors of one candidate as they cross, in the split table's order.

    ``shapes`` are ``(N, ...)``. ``payload_bytes`` is the payload's length, or its bound where
    the encoding's length depends on the values; ``raw_bytes`` the length before compression.
    """

    split: str
    wire_id: int
    code: Encoding
    shapes: tuple[tuple[int, ...], ...]

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Where each tensor lies in the raw payload."""
        found, end = [], 0
        for shape in self.shapes:
            channels = shape[1] if len(shape) > 1 else 1
            scales = {"int8": 1, "int8-channel": channels}.get(self.code.element, 0)
            start = _aligned(end)
            at = _aligned(start + scales * 2 * FLOAT32_BYTES)
            found.append(Part(shape, start, scales, at))
            end = at + prod(shape) * ITEM_BYTES.get(self.code.element, 1)
        return tuple(found)

    @cached_property
    def raw_bytes(self) -> int:
        """Length of the payload before compression."""
        last = self.parts[-1]
        return last.at + prod(last.shape) * ITEM_BYTES.get(self.code.element, 1)

    @cached_property
    def payload_bytes(self) -> int:
        """Length of the payload, or the most it may have.

        Sources: ``ZSTD_COMPRESSBOUND`` (zstd.h) and ``LZ4_COMPRESSBOUND`` (lz4.h), whose larger
        terms these are.
        """
        if self.code.compression:
            return self.raw_bytes + self.raw_bytes // 255 + 128
        if self.code.element == "jpeg":
            return _JPEG_GROWTH * self.raw_bytes + self.shapes[0][0] * _JPEG_HEADER_BYTES
        return self.raw_bytes

    def header(self, flags: int, payload_bytes: int | None = None) -> Header:
        """What a query's frame describes; its length is the layout's where it has one."""
        shape = self.shapes[0]
        if len(self.shapes) > 1:
            shape = (shape[0], sum(prod(s) // s[0] for s in self.shapes))
        return Header(
            Kind.QUERY,
            flags | _COMPRESSED[self.code.compression],
            Dtype[self.code.element.upper().replace("-", "_")],
            self.wire_id,
            shape,
            self.payload_bytes if payload_bytes is None else payload_bytes,
        )

    @cached_property
    def _description(self) -> bytes:
        return describe(self.header(0))

    def description(self, payload_bytes: int, *, verify: bool = False) -> bytes:
        """A query's header packed for the wire, made once for the length that most have."""
        if payload_bytes == self.payload_bytes and not verify:
            return self._description
        return describe(self.header(VERIFY if verify else 0, payload_bytes))

    @property
    def encoding(self) -> str:
        """The encoding's name in records."""
        return self.code.name


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def layouts(
    table: SplitTable, candidates: Collection[str], encoding: Mapping[str, str], batch: int
) -> dict[str, Layout]:
    """The layout of every candidate that crosses the wire, by split.

    Raises UserError for an encoding this release does not know, or tensors that it cannot carry.
    """
    try:
        codes = parse_input(encoding["input"]), parse_features(encoding["features"])
    except ValueError as error:
        raise UserError(f"encoding: {error}") from error
    found = {}
    for position, point in enumerate(table.points):
        if point.split not in candidates or point.split == LOCAL:
            continue
        least = 2 if encoding["features"].startswith("int8-channel") else 1
        if any(not least <= len(shape) + 1 <= MAX_DIMS for shape in point.shapes):
            raise UserError(
                f"split {point.split}: expected tensors of {least} to {MAX_DIMS} dimensions to "
                f"cross as {encoding['features']}, got {point.shapes}; choose other candidates"
            )
        shapes = tuple((batch, *shape) for shape in point.shapes)
        code = codes[point.split != OFFLOAD]
        found[point.split] = Layout(point.split, position, code, shapes)
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
        layout = self.by_id.get(header.split)
        longest = header
        if layout and not layout.code.sized and 0 < header.payload_bytes <= layout.payload_bytes:
            longest = header._replace(payload_bytes=layout.payload_bytes)
        if longest in self._queries:
            return
        if header.kind == Kind.PROBE:
            if not 0 < header.payload_bytes <= MAX_PROBE_BYTES:
                raise BadFrame(
                    f"probe: expected 1 to {MAX_PROBE_BYTES} bytes, got {header.payload_bytes}"
                )
            return
        if header.kind != Kind.QUERY:
            raise BadFrame(f"frame kind: expected a query or a probe, got {header.kind}")
        if layout is None:
            raise BadFrame(f"split id: expected one of {sorted(self.by_id)}, got {header.split}")
        raise BadFrame(
            f"split {layout.split}: expected {layout.encoding} {layout.header(0).shape} in "
            f"{'' if layout.code.sized else 'at most '}{layout.payload_bytes} bytes, got dtype "
            f"{header.dtype} {header.shape} in {header.payload_bytes}, flags {header.flags}"
        )


def reply_header(payload_bytes: int) -> Header:
    """The description of a reply's frame: float32 logits, then the server's times."""
    return Header(Kind.REPLY, 0, Dtype.FLOAT32, 0, (), payload_bytes)


def pack_times(
    wait_ns: int,
    decode_ns: int,
    tail_ns: int,
    span_bytes: int | None,
    span_ns: int | None,
    digest: bytes,
) -> bytes:
    """The fixed struct that ends every reply (:class:`ServerTimes`); an absent span is 0."""
    return _REPLY.pack(wait_ns, decode_ns, tail_ns, span_bytes or 0, span_ns or 0, digest)


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

    @classmethod
    def unpack(cls, told: bytes) -> ServerTimes:
        """The struct that ends a reply's payload."""
        wait, decode, tail, span_bytes, span_ns, digest = _REPLY.unpack(told)
        return cls(wait, decode, tail, span_bytes or None, span_ns or None, digest)
