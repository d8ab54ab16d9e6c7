"""Frames on the data connection: a fixed header, then the raw bytes of one tensor.

Little-endian header of :data:`HEADER_BYTES` bytes: magic (4), version, kind, flags, dtype (1
each), split id (2, the position in the split table), number of dimensions (2), six dimensions (4
each), payload length (8), padding (8); query id (8), CRC-32 of all before it (4). It is 64 bytes
long so that a payload received behind it in one buffer lies as torch aligns its own; a reply's
tensor is next to it for another reason, too: a copy into the socket whose target lies a few bytes
above its source modulo a page may take twice as long (AMD's Zen 3, glibc bug 30994). No pickle: a
frame is numbers and bytes, and every length is checked before anything is received into memory.

All before the query id is the frame's *description*, the same for every query of a candidate:
it is packed and checked once.
Standard library only.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

from testbed.errors import TestbedError

MAGIC = b"SPLT"
VERSION = 2
MAX_DIMS = 6
VERIFY = 1  # flag of a query: the reply carries the SHA-256 of the payload received
ZSTD, LZ4 = 2, 4  # flags of a query: how its payload is compressed

# Buffers without a tensor's shape: a token, an error's text, a probe's zeros.
MAX_TEXT_BYTES = 512
MAX_PROBE_BYTES = 1 << 20

_DESCRIPTION = struct.Struct(f"<4sBBBBHH{MAX_DIMS}IQ8x")
_QUERY = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
DESCRIPTION_BYTES = _DESCRIPTION.size
QUERIES = 1 << 64  # ids before they begin anew
HEADER_BYTES = DESCRIPTION_BYTES + _QUERY.size + _CHECKSUM.size
# The CRC-32 of any bytes with their own CRC-32 behind them (little-endian).
_RESIDUE = 0x2144DF1C


class Kind(IntEnum):
    """What a frame is."""

    TOKEN = 1
    QUERY = 2
    PROBE = 3
    REPLY = 4
    ERROR = 5


class Dtype(IntEnum):
    """Element type of a payload; ``RAW`` is bytes without a shape."""

    RAW = 0
    UINT8 = 1
    FLOAT16 = 2
    FLOAT32 = 3
    INT8 = 4
    INT8_CHANNEL = 5
    JPEG = 6


class WireError(TestbedError):
    """The exchange cannot go on; the connection is to be closed."""


class BadFrame(WireError):
    """The peer sent what the format, the split table or the token does not allow."""


class PeerGone(WireError):
    """The peer closed the connection."""


class PeerTimeout(WireError):
    """The peer did not send or take its bytes in time."""


class Header(NamedTuple):
    """A frame's description, checked for magic, version and form only."""

    kind: int
    flags: int
    dtype: int
    split: int
    shape: tuple[int, ...]
    payload_bytes: int


def describe(header: Header) -> bytes:
    """The first part of a frame; raises ValueError for more than six dimensions."""
    ndim = len(header.shape)
    if ndim > MAX_DIMS:
        raise ValueError(f"frame: expected at most {MAX_DIMS} dimensions, got {header.shape}")
    dims = header.shape + (0,) * (MAX_DIMS - ndim)
    return _DESCRIPTION.pack(MAGIC, VERSION, *header[:4], ndim, *dims, header.payload_bytes)


def understand(description: bytes) -> Header:
    """The description back from :func:`describe`; raises BadFrame naming what is wrong."""
    magic, version, kind, flags, dtype, split, ndim, *dims, size = _DESCRIPTION.unpack(description)
    if magic != MAGIC:
        raise BadFrame(f"frame magic: expected {MAGIC!r}, got {magic!r}; not a device's connection")
    if version != VERSION:
        raise BadFrame(f"frame version: expected {VERSION}, got {version}; deploy one release")
    if ndim > MAX_DIMS or any(dims[ndim:]):
        raise BadFrame(f"frame dimensions: expected at most {MAX_DIMS}, got {ndim} of {dims}")
    return Header(kind, flags, dtype, split, tuple(dims[:ndim]), size)


# More than all connections of a server have ahead.
@lru_cache(maxsize=256)
def seal(description: bytes, query: int = 0) -> bytes:
    """A whole header: the description, the query id, and their checksum.

    Kept, so that each end has the next one made while the other is at work: what is done between
    a wake-up and a send is done with cold caches, and on a fast link that is most of a small
    frame's cost.
    """
    checked = description + _QUERY.pack(query % QUERIES)
    return checked + _CHECKSUM.pack(crc32(checked))


def unseal(header: bytes) -> int:
    """The query id of a whole header; raises BadFrame where its checksum does not match."""
    if crc32(header) != _RESIDUE:
        raise BadFrame("frame header checksum: expected a match, got another; damaged on the way")
    query: int
    (query,) = _QUERY.unpack_from(header, DESCRIPTION_BYTES)
    return query
