"""What a query is expected to take: the model that ``dynamic`` minimises. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testbed.framing import serialisation_ns
from testbed.model.table import LOCAL


@dataclass(frozen=True)
class Candidate:
    """One split with its profiled times and the payload bytes that cross, for one batch."""

    split: str
    head_ns: int
    encode_ns: int
    decode_ns: int
    tail_ns: int
    bytes_up: int
    bytes_down: int


def candidates_from_profile(profile: Mapping[str, Any]) -> tuple[Candidate, ...]:
    """The candidates of a profile document (``profile.json``), in its order."""
    return tuple(
        Candidate(
            split=split,
            head_ns=times["head_ns"],
            encode_ns=times["encode_ns"],
            decode_ns=times["decode_ns"],
            tail_ns=times["tail_ns"],
            bytes_up=times["bytes_up"],
            bytes_down=times["bytes_down"],
        )
        for split, times in profile["candidates"].items()
    )


def predict_ns(
    candidate: Candidate, *, rate_bps: float, base_network_ns: int, load: float, wait_ns: int = 0
) -> int:
    """``head + encode + (wire − burst)/rate + base network + wait + (decode + tail) · load``.

    ``load`` is how many times longer the server takes than when profiled, ``wait_ns`` its queue.
    ``local`` is the head alone: it pays for no network. After Bakhtiarnia et al. (arXiv
    2205.11269) with the link's burst, the base network time, the queue and the load added.
    """
    device_ns = candidate.head_ns + candidate.encode_ns
    if candidate.split == LOCAL:
        return device_ns
    uplink_ns = serialisation_ns(candidate.bytes_up, rate_bps)
    server_ns = round((candidate.decode_ns + candidate.tail_ns) * load)
    return device_ns + uplink_ns + base_network_ns + wait_ns + server_ns
