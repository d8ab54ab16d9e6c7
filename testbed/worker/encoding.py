"""The one copy between a head and the wire, and the way back between the wire and a tail."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor

from testbed.errors import TestbedError
from testbed.model.table import OFFLOAD
from testbed.worker.codecs import DamagedPayload, jpeg_decode, jpeg_encode, make_codec
from testbed.worker.layout import Layout, Part
from testbed.worker.wire import Dtype

# What a head gives and a tail takes: one tensor, or several in the split table's order.
Crossing: TypeAlias = Tensor | tuple[Tensor, ...]

_TORCH = {
    Dtype.UINT8: torch.uint8,
    Dtype.INT8: torch.int8,
    Dtype.INT8_CHANNEL: torch.int8,
    Dtype.FLOAT16: torch.float16,
    Dtype.FLOAT32: torch.float32,
}
_LOWEST, _HIGHEST = -128, 127

# As torch aligns its own tensors: a math library may add in another order on other alignments.
_ALIGNMENT_BYTES = 64


def aligned_buffer(size_bytes: int) -> memoryview:
    """A writable buffer that begins where a tensor of torch's own would.

    In a process that has put a model on a GPU it is pinned: the GPU copies from and to it itself.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        pinned = torch.empty(max(1, size_bytes), dtype=torch.uint8, pin_memory=True)
        return bytes_of(pinned)[:size_bytes]
    raw = bytearray(size_bytes + _ALIGNMENT_BYTES)
    start = -torch.frombuffer(raw, dtype=torch.uint8).data_ptr() % _ALIGNMENT_BYTES
    return memoryview(raw)[start : start + size_bytes]


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous uint8 tensor, which lives as long as the view does."""
    array = (ctypes.c_uint8 * tensor.numel()).from_address(tensor.data_ptr())
    array.owner = tensor  # type: ignore[attr-defined]
    return memoryview(array).cast("B")


def tensor_view(buffer: memoryview, dtype: Dtype, shape: tuple[int, ...], at: int = 0) -> Tensor:
    """The tensor that lies in a buffer from byte ``at`` on, without a copy."""
    kind = _TORCH[dtype]
    return torch.frombuffer(buffer, dtype=kind, count=prod(shape), offset=at).view(shape)


def largest_bytes(known: Iterable[Layout]) -> int:
    """The largest payload among layouts, 0 for none."""
    return max((layout.payload_bytes for layout in known), default=0)


class _Slot:
    """Where one tensor of one candidate is written, and its scales."""

    def __init__(self, buffer: memoryview, part: Part, dtype: Dtype) -> None:
        self.target = tensor_view(buffer, dtype, part.shape, part.at)
        self.scales: Tensor | None = None
        self.by_channel = part.scales > 1
        if part.scales:
            shape = (2, part.scales)
            self.scales = tensor_view(buffer, Dtype.FLOAT32, shape, part.scales_at)

    def write(self, tensor: Tensor) -> None:
        if self.scales is None:
            self.target.copy_(tensor)
        else:
            _quantise(tensor, self.target, self.scales, self.by_channel)


class Encoder:
    """Copies and casts intermediate tensors into one reused buffer, ready to send.

    The copy makes each tensor contiguous and detaches it from what the head computes next.

    Raises UserError where an encoding needs a package that this host does not have.
    """

    def __init__(self, known: dict[str, Layout]) -> None:
        largest = max((layout.raw_bytes for layout in known.values()), default=0)
        self._buffer = aligned_buffer(largest)
        self._layouts = known
        self._codecs = {split: make_codec(layout.code) for split, layout in known.items()}
        self._slots = {
            split: [_Slot(self._buffer, part, _dtype(layout)) for part in layout.parts]
            for split, layout in known.items()
        }

    def encode(self, split: str, crossing: Crossing) -> memoryview:
        """The payload of what crosses, as its layout says, valid until the next call."""
        layout = self._layouts[split]
        tensors = (crossing,) if isinstance(crossing, Tensor) else crossing
        if layout.code.quality is not None:
            return self._bounded(layout, jpeg_encode(tensors[0], layout.code.quality))
        for slot, tensor in zip(self._slots[split], tensors, strict=True):
            slot.write(tensor)
        raw = self._buffer[: layout.raw_bytes]
        codec = self._codecs[split]
        return raw if codec is None else self._bounded(layout, codec.compress(raw))

    @staticmethod
    def _bounded(layout: Layout, payload: bytes) -> memoryview:
        if len(payload) > layout.payload_bytes:
            raise TestbedError(
                f"encoding {layout.encoding} of split {layout.split}: expected at most "
                f"{layout.payload_bytes} bytes, got {len(payload)}; use an encoding of fixed size"
            )
        return memoryview(payload)


class Decoder:
    """Turns payloads back into what a tail takes. Raises as :class:`Encoder` when made."""

    def __init__(self, known: Iterable[Layout]) -> None:
        self._codecs = {layout.split: make_codec(layout.code) for layout in known}

    def decode(self, layout: Layout, received: memoryview) -> Any:
        """What a tail takes (a :data:`Crossing`): pixels uint8, features float32 ``(N, ...)``.

        A view on ``received`` where nothing needs a change; the tail may then overwrite that
        buffer. Raises DamagedPayload for a payload that is not what its layout says.
        """
        if layout.code.element == "jpeg":
            return jpeg_decode(received, layout.shapes[0])
        codec = self._codecs[layout.split]
        if codec is None:
            return _tensors(layout, received)
        raw = aligned_buffer(layout.raw_bytes)
        codec.decompress(received, raw)
        return _tensors(layout, raw)


def _dtype(layout: Layout) -> Dtype:
    # A JPEG has no raw form of its own: what is compressed are pixels.
    return Dtype.UINT8 if layout.code.element == "jpeg" else Dtype(layout.header(0).dtype)


def _tensors(layout: Layout, raw: memoryview) -> Crossing:
    if len(raw) != layout.raw_bytes:
        raise DamagedPayload(f"payload: expected {layout.raw_bytes} bytes, got {len(raw)}")
    dtype = _dtype(layout)
    pixels = layout.split == OFFLOAD
    found = tuple(_restored(raw, part, dtype, pixels) for part in layout.parts)
    return found[0] if len(found) == 1 else found


def _restored(raw: memoryview, part: Part, dtype: Dtype, pixels: bool) -> Tensor:
    view = tensor_view(raw, dtype, part.shape, part.at)
    if part.scales:
        scales = tensor_view(raw, Dtype.FLOAT32, (2, part.scales), part.scales_at)
        scale, offset = _broadcast(scales, view.dim(), part.scales > 1)
        return view.to(torch.float32).mul_(scale).add_(offset)
    return view.to(torch.uint8 if pixels else torch.float32)


def _quantise(x: Tensor, target: Tensor, scales: Tensor, by_channel: bool) -> None:
    """Affine to int8: ``x ≈ q · scale + offset``; writes ``q`` and the pair (scale, offset).

    The least value becomes −128 and the greatest 127, of the tensor or of each channel
    (Jacob et al., arXiv 1712.05877, equation 1, with a real in place of the integer zero point).
    """
    x = x.to(torch.float32)
    if by_channel:
        others = [d for d in range(x.dim()) if d != 1]
        low, high = x.amin(others), x.amax(others)
    else:
        low, high = torch.aminmax(x)
    step = (high - low) / (_HIGHEST - _LOWEST)
    step = torch.where(step > 0, step, torch.ones_like(step))  # a constant tensor has no range
    scales[0].copy_(step)
    scales[1].copy_(low - _LOWEST * step)
    scale, offset = _broadcast(scales.to(x.device), x.dim(), by_channel)
    # Subtracting first: a small range far from zero keeps its digits.
    q = torch.sub(x, offset).div_(scale).round_().clamp_(_LOWEST, _HIGHEST)
    target.copy_(q)


def _broadcast(scales: Tensor, dims: int, by_channel: bool) -> Tensor:
    """Both rows of ``(2, channels)`` against dimension 1 of a tensor, or against all of it."""
    shape = (1, -1, *([1] * (dims - 2))) if by_channel else (1,) * dims
    return scales.view(2, *shape)
