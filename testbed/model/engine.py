"""Heads and tails of one archive, built once and ready to run. Needs torch alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from testbed.errors import UserError
from testbed.model.archive import load_archive
from testbed.model.cut import cut_head, cut_tail, cut_whole
from testbed.model.table import LOCAL, OFFLOAD, SplitTable

Crossing = Tensor | tuple[Tensor, ...]
_Part = Callable[..., Any]


class Engine:
    """Runs the head or the tail of any candidate, all on one set of weights.

    Args:
        archive: the model archive on this host, whose hash must be ``archive_sha256``.
        table: the split table made from that archive.
        candidates: split points to be ready for.
        batch: images a query; every tensor has exactly that many.
        threads: torch's intra-op threads in this process.
        accelerator: ``cpu`` or ``cuda``.

    Raises TestbedError for an archive that is missing, altered or unreadable here, and UserError
    for an unknown split or an accelerator that this host's torch does not have.
    """

    def __init__(
        self,
        archive: Path,
        archive_sha256: str,
        table: SplitTable,
        candidates: Sequence[str],
        *,
        batch: int,
        threads: int = 1,
        accelerator: str = "cpu",
    ) -> None:
        if accelerator == "cuda" and not torch.cuda.is_available():
            raise UserError(
                f"accelerator: torch {torch.__version__} on this host has no CUDA device; "
                "use accelerator: cpu"
            )
        torch.set_num_threads(threads)
        self.table = table
        self.candidates = tuple(table[split].split for split in candidates)
        self.batch = batch
        self._device = torch.device(accelerator)
        module = load_archive(archive, archive_sha256, batch, self._device)
        self._whole = _code(cut_whole(module), module)
        inner = [table[s] for s in self.candidates if s not in (LOCAL, OFFLOAD)]
        self._heads = {point.split: _code(cut_head(module, point), module) for point in inner}
        self._tails = {point.split: _code(cut_tail(module, point), module) for point in inner}

    def head(self, split: str, x: Tensor) -> Crossing:
        """What crosses for a split, of uint8 pixels ``(N, 3, H, W)``; ``x`` is left as it was.

        ``offload`` gives ``x`` itself; ``local`` gives the logits; a split gives its
        intermediate float32 tensor ``(N, *shape)``, or a tuple of them in the table's order, on
        the accelerator, finished.
        """
        if split == OFFLOAD:
            return x
        if split == LOCAL:
            return self.whole(x)
        crossing: Crossing = self._run(self._heads[split], x)
        return crossing

    def tail(self, split: str, received: Crossing) -> Tensor:
        """Logits ``(N, outputs)``, float32 on the CPU, of what crossed.

        Owns ``received``, contiguous as :meth:`head` shapes it, and may overwrite it. ``local``
        has no tail: KeyError.
        """
        tensors = received if isinstance(received, tuple) else (received,)
        module = self._whole if split == OFFLOAD else self._tails[split]
        logits: Tensor = self._run(module, *tensors).cpu()
        return logits

    def whole(self, x: Tensor) -> Tensor:
        """Logits ``(N, outputs)``, float32 on the CPU, of uint8 pixels ``(N, 3, H, W)``."""
        logits: Tensor = self._run(self._whole, x).cpu()
        return logits

    def _run(self, module: _Part, *tensors: Tensor) -> Any:
        with torch.inference_mode():
            result = module(*(tensor.to(self._device) for tensor in tensors))
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            return result

    def check(self, x: Tensor) -> dict[str, bool]:
        """Whether each candidate's ``tail(head(x))`` equals ``whole(x)`` bit for bit, twice.

        The second pass on the same pixels finds a head that overwrote them; the copy in between
        is contiguous, as what comes off the wire.
        """
        expected = self.whole(x)
        verdict = dict.fromkeys(self.candidates, True)
        for _ in range(2):
            for split in self.candidates:
                crossing = _sent(self.head(split, x))
                logits = crossing if split == LOCAL else self.tail(split, crossing)
                verdict[split] &= isinstance(logits, Tensor) and torch.equal(logits, expected)
        return verdict


def _code(part: fx.GraphModule, whole: fx.GraphModule) -> _Part:
    """A head or a tail as the code that was made of it, run on the weights of the whole.

    Its graph and its own table of the weights, many times as large, are let go.
    """
    return partial(type(part).forward, whole)


def _sent(crossing: Crossing) -> Crossing:
    if isinstance(crossing, tuple):
        return tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in crossing)
    return crossing.clone(memory_format=torch.contiguous_format)
