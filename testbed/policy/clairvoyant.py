"""The bound: a policy that is told the rate and the load, now and in the time to come."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from testbed.framing import LINK_FRAME_BYTES, MTU_BYTES, burst_bytes, ip_bytes
from testbed.model.table import LOCAL, OFFLOAD
from testbed.policy.latency import Candidate
from testbed.policy.protocol import Outcome, Policy, State


@dataclass(frozen=True)
class Steps:
    """A value that changes at set times; with a period it begins again, else the last holds."""

    changes: tuple[tuple[int, float], ...]
    period_ns: int | None

    def at(self, t_ns: int) -> tuple[float, int | None]:
        """(value at ``t_ns``, time of the next change or None)."""
        turn, offset_ns = divmod(t_ns, self.period_ns) if self.period_ns else (0, t_ns)
        begun_ns = turn * (self.period_ns or 0)
        index = bisect_right(self.changes, offset_ns, key=lambda change: change[0])
        following = self.changes[index][0] if index < len(self.changes) else self.period_ns
        value = self.changes[max(0, index - 1)][1]
        return value, None if following is None else begun_ns + following


@dataclass(frozen=True)
class Oracle:
    """The run's own schedule of the uplink and the server's load, both from its beginning.

    ``queued`` says that a load level is a number of clients in the server's own queue.
    """

    rate_bps: Steps
    load: Steps
    queued: bool

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Oracle:
        """From the field ``oracle`` of ``start``."""
        uplink, load = message["uplink"], message["load"]
        period_ns = uplink["duration_ns"] if uplink["end"] == "loop" else None
        return cls(
            Steps(_changes(uplink["changes"]), period_ns),
            Steps(_changes(load["steps"] or [[0, 0]]), load["period_ns"]),
            bool(load["queued"]),
        )

    def transfer_ns(self, start_ns: int, payload_bytes: int) -> int:
        """Serialisation of a payload that enters the link then, through every change to come."""
        rate_bps, change_ns = self.rate_bps.at(start_ns)
        burst = burst_bytes(rate_bps) * MTU_BYTES // LINK_FRAME_BYTES
        left_bits = max(0.0, (ip_bytes(payload_bytes) - burst) * 8.0)
        now_ns = start_ns
        while change_ns is not None:
            carried_bits = rate_bps * (change_ns - now_ns) / 1e9
            if carried_bits >= left_bits:
                break
            left_bits -= carried_bits
            now_ns = change_ns
            rate_bps, change_ns = self.rate_bps.at(now_ns)
        return now_ns - start_ns + round(left_bits * 1e9 / max(1.0, rate_bps))


def _changes(pairs: Sequence[Sequence[float]]) -> tuple[tuple[int, float], ...]:
    return tuple((int(t_ns), float(value)) for t_ns, value in pairs)


class Clairvoyant(Policy):
    """The least latency under the rates that *will* be set and the load that *is* set.

    What a load level does to the server is not in any schedule. It is the median of the last
    replies under that level in this run; before the first, a level of n clients is taken as a
    wait of n whole models, and any other as none.
    """

    WINDOW = 5

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._seen: dict[float, deque[tuple[float, int]]] = {}  # level → (slowdown, wait)
        self._level = 0.0
        self._tails: dict[str, int] = {}

    def decide(self, state: State) -> str:
        """The argmin; a tie goes to less work on the device."""
        if not state.candidates:
            return LOCAL
        self._tails = {c.split: c.tail_ns for c in state.candidates}
        self._level, _ = self._oracle.load.at(state.run_ns)
        effect = self._effect(state)
        return min(
            state.candidates, key=lambda c: (self._latency_ns(c, state, effect), c.head_ns)
        ).split

    def _latency_ns(self, candidate: Candidate, state: State, effect: tuple[float, int]) -> float:
        device_ns = candidate.device_ns(state.slowdown)
        if candidate.split == LOCAL:
            return device_ns
        slowdown, wait_ns = effect
        network_ns = self._oracle.transfer_ns(state.run_ns + device_ns, candidate.bytes_up)
        server_ns = wait_ns + (candidate.decode_ns + candidate.tail_ns) * slowdown
        return device_ns + network_ns + state.base_network_ns + server_ns

    def _effect(self, state: State) -> tuple[float, int]:
        seen = self._seen.get(self._level)
        if seen:
            return median(slow for slow, _ in seen), round(median(wait for _, wait in seen))
        whole_ns = next((c.tail_ns for c in state.candidates if c.split == OFFLOAD), 0)
        return 1.0, round(self._level * whole_ns) if self._oracle.queued else 0

    def observe(self, outcome: Outcome) -> None:
        """Keep what the server needed under the level that was set at the decision."""
        profiled_ns = self._tails.get(outcome.split, 0)
        if outcome.kind == "measured" and outcome.status == "ok" and profiled_ns:
            seen = self._seen.setdefault(self._level, deque(maxlen=self.WINDOW))
            seen.append((outcome.tail_ns / profiled_ns, outcome.wait_ns))
