"""The one copy between a head and the wire, and the view between the wire and a tail."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import torch
from torch import Tensor

from testbed.worker.layout import Layout
from testbed.worker.wire import Dtype

_TORCH = {Dtype.UINT8: torch.uint8, Dtype.FLOAT16: torch.float16, Dtype.FLOAT32: torch.float32}

# As torch aligns its own tensors: a math library may add in another order on other alignments.
_ALIGNMENT_BYTES = 64


def aligned_buffer(size_bytes: int) -> memoryview:
    """A writable buffer that begins where a tensor of torch's own would."""
    raw = bytearray(size_bytes + _ALIGNMENT_BYTES)
    start = -torch.frombuffer(raw, dtype=torch.uint8).data_ptr() % _ALIGNMENT_BYTES
    return memoryview(raw)[start : start + size_bytes]


def tensor_view(buffer: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor that lies in a buffer, without a copy."""
    kind = _TORCH[dtype]
    return torch.frombuffer(buffer, dtype=kind, count=prod(shape)).view(shape)


def largest_bytes(known: Iterable[Layout]) -> int:
    """The largest payload among layouts, 0 for none."""
    return max((layout.payload_bytes for layout in known), default=0)


class Encoder:
    """Copies and casts intermediate tensors into one reused buffer, ready to send.

    The copy makes the tensor contiguous and detaches it from what the head computes next.
    """

    def __init__(self, known: dict[str, Layout]) -> None:
        buffer = aligned_buffer(largest_bytes(known.values()))
        self._targets = {
            split: (tensor_view(buffer, layout.dtype, layout.shape), buffer[: layout.payload_bytes])
            for split, layout in known.items()
        }

    def encode(self, split: str, tensor: Tensor) -> memoryview:
        """The tensor's bytes as its layout says, valid until the next call."""
        target, view = self._targets[split]
        target.copy_(tensor)
        return view


def decode(layout: Layout, received: memoryview) -> Tensor:
    """The tensor a tail takes: pixels uint8, features float32 ``(N, ...)``.

    A view on ``received`` where no cast is needed; the tail may then overwrite that buffer.
    """
    view = tensor_view(received, layout.dtype, layout.shape)
    return view.to(torch.float32) if layout.dtype == Dtype.FLOAT16 else view
