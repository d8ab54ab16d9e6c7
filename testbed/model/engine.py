"""Heads and tails of one archive, cut once and ready to run. Needs torch alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from testbed.errors import UserError
from testbed.model.archive import load_archive
from testbed.model.cut import Crossed, cut
from testbed.model.options import Options, fold_batch_norms, lay_out_by_pixel
from testbed.model.table import LOCAL, OFFLOAD, SplitTable

# Of the largest logit: folding and other orders of addition stay far below it.
_CLOSE = 1e-3

Crossing = Tensor | tuple[Tensor, ...]
_Piece = Callable[..., tuple[Tensor, ...]]


class Engine:
    """Runs the head or the tail of any candidate, all on one set of weights.

    Args:
        archive: the model archive on this host, whose hash must be ``archive_sha256``.
        table: the split table made from that archive.
        candidates: split points to be ready for.
        batch: images a query; every tensor has exactly that many.
        threads: torch's intra-op threads in this process.
        accelerator: ``cpu`` or ``cuda``.
        options: what is done to the network to run faster.

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
        options: Options | None = None,
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
        # A GPU goes on by itself: a clock read before it has finished tells nothing.
        self._finish: Callable[[], object] = (
            torch.cuda.synchronize if accelerator == "cuda" else lambda: None
        )
        module = load_archive(archive, archive_sha256, batch, self._device)
        asked = options or Options()
        # A head is the pieces before its cut and a tail those behind it: what they weigh does not
        # grow with the number of candidates.
        inner = [point for point in table.points[1:-1] if point.split in self.candidates]
        if asked.fold_batchnorm:
            fold_batch_norms(module, {name for point in inner for name in point.nodes})
        if asked.channels_last:
            pixels = torch.zeros((batch, *table.input_shape), dtype=torch.uint8)
            lay_out_by_pixel(module, pixels.to(self._device))
        pieces, crossed = cut(module, inner)
        self._pieces: list[_Piece] = [_code(piece, module) for piece in pieces]
        if asked.compile:
            self._pieces = [torch.compile(piece, dynamic=False) for piece in pieces]
        self._place = {point.split: place for place, point in enumerate(inner, 1)}
        self._crossed = dict(zip(self._place, crossed, strict=True))

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
        made = self._run(slice(self._place[split]), (x,), leave=self._crossed[split])
        return made[0] if len(made) == 1 else made

    def tail(self, split: str, received: Crossing) -> Tensor:
        """Logits ``(N, outputs)``, float32 on the CPU, of what crossed.

        Owns ``received``, contiguous as :meth:`head` shapes it, and may overwrite it. ``local``
        has no tail: KeyError.
        """
        if split == OFFLOAD:
            assert isinstance(received, Tensor), "pixels"
            return self.whole(received)
        tensors = received if isinstance(received, tuple) else (received,)
        behind = slice(self._place[split], None)
        (logits,) = self._run(behind, tensors, enter=self._crossed[split])
        return logits.cpu()

    def whole(self, x: Tensor) -> Tensor:
        """Logits ``(N, outputs)``, float32 on the CPU, of uint8 pixels ``(N, 3, H, W)``."""
        (logits,) = self._run(slice(None), (x,))
        return logits.cpu()

    def _run(
        self,
        which: slice,
        tensors: tuple[Tensor, ...],
        enter: tuple[Crossed, ...] = (),
        leave: tuple[Crossed, ...] = (),
    ) -> tuple[Tensor, ...]:
        """The tensors through the pieces, past the cut that they enter by or leave by."""
        with torch.inference_mode():
            tensors = tuple(tensor.to(self._device) for tensor in tensors)
            if enter:
                tensors = tuple(c.incoming(t) for c, t in zip(enter, tensors, strict=True))
            for piece in self._pieces[which]:
                tensors = piece(*tensors)
            if leave:
                tensors = tuple(c.outgoing(t) for c, t in zip(leave, tensors, strict=True))
            self._finish()
            return tensors

    def closeness(self, x: Tensor, plain: Engine) -> dict[str, Any]:
        """How this engine's logits of pixels stand to the plain one's, as shares of the largest.

        Raises UserError where they differ by more than arithmetic explains, or where the options
        cannot be had on this host.
        """
        try:
            logits, expected = self.whole(x), plain.whole(x)
        except Exception as error:  # a compiler that is not there shows itself in many ways
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"engine: this host cannot do it ({type(error).__name__}: {reason}); leave compile "
                "out, or install a C++ compiler here"
            ) from error
        largest = float(expected.abs().max())
        found = {
            "max_abs": float((logits - expected).abs().max()),
            "largest": largest,
            "top1": bool((logits.argmax(1) == expected.argmax(1)).all()),
        }
        if not found["max_abs"] <= _CLOSE * largest:
            raise UserError(
                f"engine: logits differ from the plain engine's by {found['max_abs']:.3g} of "
                f"{largest:.3g}, expected {_CLOSE:g} of it at most; leave the options out"
            )
        return found

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


def _code(piece: fx.GraphModule, whole: fx.GraphModule) -> _Piece:
    """A piece as the code that was made of it, run on the weights of the whole.

    Its graph and its own table of the weights, many times as large, are let go.
    """
    return partial(type(piece).forward, whole)


def _sent(crossing: Crossing) -> Crossing:
    if isinstance(crossing, tuple):
        return tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in crossing)
    return crossing.clone(memory_format=torch.contiguous_format)
