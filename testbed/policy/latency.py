"""What a query is expected to take: the model that ``dynamic`` minimises. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

from testbed.framing import burst_ip_bytes, ip_bytes, serialisation_ns
from testbed.model.table import LOCAL

_ROUNDING_NS = 3  # of a prediction's three rounded parts, on both sides of a comparison


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

    def device_ns(self, slowdown: float) -> int:
        """What the device takes where its work is so many times as long as when profiled."""
        return round((self.head_ns + self.encode_ns) * slowdown)

    @cached_property
    def costs(self) -> tuple[float, float, float]:
        """(device ns, IP bytes, server ns): what no decision changes."""
        # All of them floats: arithmetic of one kind takes half the time of a mixture.
        return (
            float(self.head_ns + self.encode_ns),
            float(ip_bytes(self.bytes_up)),
            float(self.decode_ns + self.tail_ns),
        )


class Candidates(tuple[Candidate, ...]):
    """Candidates to choose among, with what no decision changes worked out beforehand."""

    def __init__(self, _candidates: Iterable[Candidate] = ()) -> None:
        self._costs = [c.costs for c in self]
        self._staying = [place for place, c in enumerate(self) if c.split == LOCAL]

    def replaced(self, changed: Mapping[int, Candidate]) -> Candidates:
        """These with others of the same splits in some places, whose costs alone are new."""
        candidates, costs = list(self), list(self._costs)
        for place, candidate in changed.items():
            candidates[place], costs[place] = candidate, candidate.costs
        made = tuple.__new__(Candidates, candidates)
        made._costs, made._staying = costs, self._staying
        return made

    def nearly_fastest(
        self, *, rate_bps: float, base_network_ns: int, load: float, wait_ns: int, slowdown: float
    ) -> list[Candidate]:
        """Those whose :func:`predict_ns` may be the least of all, before its rounding.

        One pass of plain arithmetic: among 250 layers a query would wait for anything more.
        """
        # In units of the device's slowdown, so that no candidate's own time needs the product.
        byte_ns, burst = 8e9 / rate_bps / slowdown, float(burst_ip_bytes(rate_bps))
        load = load / slowdown
        burst_ns = burst * byte_ns  # what a payload within the burst weighs, like any other's first
        times = [
            device + server * load + (size * byte_ns if size > burst else burst_ns)
            for device, size, server in self._costs
        ]
        for place in self._staying:  # without what all that cross pay, and these times leave out
            times[place] = self._costs[place][0] + burst_ns - (base_network_ns + wait_ns) / slowdown
        most = min(times, default=inf) + _ROUNDING_NS / slowdown
        return [c for c, time in zip(self, times, strict=True) if time <= most]


def candidates_from_profile(profile: Mapping[str, Any]) -> Candidates:
    """The candidates of a profile document (``profile.json``), in its order."""
    return Candidates(
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
    candidate: Candidate,
    *,
    rate_bps: float,
    base_network_ns: int,
    load: float,
    wait_ns: int = 0,
    slowdown: float = 1.0,
) -> int:
    """``(head + encode) · slowdown + (wire − burst)/rate + base + wait + (decode + tail) · load``.

    ``slowdown`` and ``load`` are how many times longer device and server take than when profiled,
    ``base`` the base network time, ``wait_ns`` the server's queue. ``local`` is the head alone: it
    pays for no network. After Bakhtiarnia et al. (arXiv 2205.11269), to which the burst of the
    link, the base network time, the queue, the load and the slowdown are added.
    """
    device_ns = candidate.device_ns(slowdown)
    if candidate.split == LOCAL:
        return device_ns
    uplink_ns = serialisation_ns(candidate.bytes_up, rate_bps)
    server_ns = round((candidate.decode_ns + candidate.tail_ns) * load)
    return device_ns + uplink_ns + base_network_ns + wait_ns + server_ns
