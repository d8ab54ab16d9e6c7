"""What a run on the device is given: the model's parts and the rules."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from testbed.model.engine import Engine
from testbed.worker.arrivals import ArrivalRule
from testbed.worker.encoding import Crossing, Decoder, Encoder, tensor_view
from testbed.worker.inputs import Labels
from testbed.worker.layout import Layout
from testbed.worker.wire import Dtype


@dataclass(frozen=True)
class Equipment:
    """What the device keeps for the whole campaign; ``outputs`` is the length of all logits.

    ``labels`` are the classes ``(batch,)`` of each of the ``inputs``, where they are known;
    ``real`` is whether somebody gave the images.
    """

    engine: Engine
    layouts: dict[str, Layout]
    candidates: tuple[str, ...]
    encoder: Encoder
    decoder: Decoder
    inputs: tuple[Tensor, ...]
    batch: int
    outputs: int
    labels: Labels = None
    real: bool = False

    def correct(self, query: int, logits: Crossing | memoryview) -> int | None:
        """How many images of a query's batch got their own class; None without labels."""
        if self.labels is None:
            return None
        if isinstance(logits, memoryview):
            logits = tensor_view(logits, Dtype.FLOAT32, (self.batch, self.outputs // self.batch))
        assert isinstance(logits, Tensor), "the whole model's"
        return int((logits.argmax(1) == self.labels[query % len(self.labels)]).sum())


@dataclass(frozen=True)
class Rules:
    """When queries are due, and how long one may take.

    A reply later than ``deadline_ns`` after the start is not waited for; with ``hedge`` the tail
    begins here once the reply is later than nearly every one before.
    """

    arrivals: ArrivalRule = field(default_factory=ArrivalRule)
    deadline_ns: int | None = None
    hedge: bool = False

    @property
    def late_after_ns(self) -> int | None:
        """A query that takes longer is late: the deadline, or else a camera's interval."""
        return self.deadline_ns or self.arrivals.interval_ns or None
