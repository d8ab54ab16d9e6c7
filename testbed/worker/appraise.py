"""What each encoding costs and loses at each candidate, on one host, without a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import median
from time import monotonic_ns, sleep
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from testbed.encodings import Encoding, parse_features, parse_input
from testbed.model.engine import Engine
from testbed.model.table import LOCAL, OFFLOAD, SplitTable
from testbed.worker.encoding import Crossing, Decoder, Encoder
from testbed.worker.inputs import Labels
from testbed.worker.layout import Layout, layouts

_LOSSLESS = {"input": "uint8", "features": "float32"}
# As long as the longest period of a CPU quota (testbed/lab/cgroup.py): it is full again then.
_WAIT_S = 0.02


def picture_like(table: SplitTable, *, batch: int, seed: int) -> Tensor:
    """A uint8 batch ``(N, C, H, W)`` whose detail falls off as a photograph's does.

    Octaves of noise, each with half the amplitude of the one twice as coarse: an amplitude
    spectrum of about 1/f (Field, JOSA A 4, 1987). White noise would make every JPEG too large.
    """
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = table.input_shape
    image = torch.zeros(batch, channels, height, width)
    size = 2
    while size <= min(height, width):
        noise = torch.randn(batch, channels, size, size, generator=generator)
        coarse = functional.interpolate(
            noise, (height, width), mode="bilinear", align_corners=False
        )
        image += coarse / size
        size *= 2
    spread = image.std((1, 2, 3), keepdim=True)
    return (128 + 50 * image / spread).clamp_(0, 255).to(torch.uint8)


def appraise(
    engine: Engine,
    *,
    inputs: Sequence[str],
    features: Sequence[str],
    repeats: int,
    seed: int,
    agreement: bool,
    pictures: tuple[Sequence[Tensor], Labels] | None = None,
) -> dict[str, dict[str, Any]]:
    """Encoding name → candidate → its medians and, where asked for, how results agree.

    ``encode_ns`` and ``decode_ns`` are medians over ``repeats``, each after a wait: in a run the
    device waits for a reply and the server for a payload. Back to back the caches are warm and a
    CPU quota is spent by the calls before: a quarter of a core then took 0.3 or 9 ms, as it fell
    out, for a JPEG that takes 0.7 ms in a run. ``bytes`` is one payload of a whole batch.
    ``top1_share``, ``max_abs`` and ``mean_abs`` compare logits with the whole model's, over all
    batches of ``pictures``, or else one batch of synthetic ones. With labels, ``accuracy`` and
    ``whole_accuracy`` are the shares of images classified rightly.
    """
    batches, labels = pictures or (
        [picture_like(engine.table, batch=engine.batch, seed=seed)],
        None,
    )
    whole = [engine.whole(x) for x in batches] if agreement else []
    known = layouts(engine.table, engine.candidates, _LOSSLESS, engine.batch)
    found: dict[str, dict[str, Any]] = {name: {} for name in (*inputs, *features)}
    for split in engine.candidates:
        if split == LOCAL:
            continue
        for code in _codes(split, inputs, features):
            layout = replace(known[split], code=code)
            row = _timed(layout, engine.head(split, batches[0]), repeats)
            if agreement:
                logits = [_crossed(engine, layout, x) for x in batches]
                row |= _agreement(torch.cat(logits), torch.cat(whole))
                if labels is not None:
                    row |= _accuracy(torch.cat(logits), torch.cat(whole), torch.cat(labels))
            found[code.name][split] = row
    return found


def _codes(split: str, inputs: Sequence[str], features: Sequence[str]) -> Iterator[Encoding]:
    if split == OFFLOAD:
        yield from map(parse_input, inputs)
    else:
        yield from map(parse_features, features)


def _crossed(engine: Engine, layout: Layout, x: Tensor) -> Tensor:
    """Logits of what the layout makes of a crossing."""
    payload = Encoder({layout.split: layout}).encode(layout.split, engine.head(layout.split, x))
    received = memoryview(bytearray(payload))
    return engine.tail(layout.split, Decoder([layout]).decode(layout, received))


def _timed(layout: Layout, crossing: Crossing, repeats: int) -> dict[str, Any]:
    encoder, decoder = Encoder({layout.split: layout}), Decoder([layout])
    encode_ns, decode_ns = [], []
    for _ in range(repeats):
        sleep(_WAIT_S)
        begun_ns = monotonic_ns()
        payload = encoder.encode(layout.split, crossing)
        encoded_ns = monotonic_ns()
        received = memoryview(bytearray(payload))
        sleep(_WAIT_S)
        decoding_ns = monotonic_ns()
        decoder.decode(layout, received)
        decode_ns.append(monotonic_ns() - decoding_ns)
        encode_ns.append(encoded_ns - begun_ns)
    return {
        "encode_ns": round(median(encode_ns)),
        "decode_ns": round(median(decode_ns)),
        "bytes": len(received),
    }


def _accuracy(logits: Tensor, whole: Tensor, labels: Tensor) -> dict[str, float]:
    return {
        "accuracy": float((logits.argmax(1) == labels).float().mean()),
        "whole_accuracy": float((whole.argmax(1) == labels).float().mean()),
    }


def _agreement(logits: Tensor, expected: Tensor) -> dict[str, float]:
    difference = (logits - expected).abs()
    return {
        "top1_share": float((logits.argmax(1) == expected.argmax(1)).float().mean()),
        "max_abs": float(difference.max()),
        "mean_abs": float(difference.mean()),
        "images": len(expected),
    }
