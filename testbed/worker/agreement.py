"""How results over the wire stand to the device's own whole model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from testbed.worker.client import Reply
from testbed.worker.encoding import tensor_view
from testbed.worker.wire import Dtype


class Comparison:
    """Gathers the queries of one split; differences are of logits."""

    def __init__(self) -> None:
        self._digest = self._equal = True
        self._max = self._largest = 0.0
        self._means: list[float] = []
        self._same: list[Tensor] = []

    def add(self, expected: Tensor, reply: Reply, digest: bytes) -> None:
        """One query: the whole model's logits ``(N, outputs)``, the reply, the SHA-256 sent."""
        logits = tensor_view(reply.logits, Dtype.FLOAT32, tuple(expected.shape))
        difference = (logits - expected).abs()
        self._digest &= reply.times.digest == digest
        self._equal &= torch.equal(logits, expected)
        self._max = max(self._max, float(difference.max()))
        self._largest = max(self._largest, float(expected.abs().max()))
        self._means.append(float(difference.mean()))
        self._same.append(logits.argmax(1) == expected.argmax(1))

    def result(self) -> dict[str, Any]:
        """Findings over all queries; ``top1`` where every image kept its class."""
        same = torch.cat(self._same)
        return {
            "digest": self._digest,
            "equal": self._equal,
            "max_abs": self._max,
            "largest": self._largest,
            "mean_abs": sum(self._means) / len(self._means),
            "top1": bool(same.all()),
            "top1_share": float(same.float().mean()),
            "images": len(same),
        }
