"""The qdisc tree of one shaped interface, as a pure description.

An HTB root whose own handle is our tag, one class that holds the rate, a pfifo leaf, and a u32
filter that sends all IPv4 into the class. The root has no default class: what is not classified
(ARP, say) passes unshaped. HTB, and neither TBF nor netem's rate, because a change of its class
keeps the queue, applies to the backlog and does not refill the bucket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from testbed import framing
from testbed.errors import UserError

# Below 8000 (hex): the kernel numbers qdiscs that were given no handle from there on.
ROOT_HANDLE = 0x5D7B0000
CLASS_HANDLE = ROOT_HANDLE | 1
LEAF_HANDLE = 0x5D7C0000

# HTB charges a packet in time at the rate of the moment: below this, one packet's debt outlasts a
# raised rate by more than a second. An outage is a mode of its own, not a low rate.
MIN_RATE_BPS = 8_000
# HTB warns outside these bounds; with one class the share itself does not matter.
MIN_QUANTUM_BYTES, MAX_QUANTUM_BYTES = framing.LINK_FRAME_BYTES, 60_000
MIN_QUEUE_PACKETS = 2


@dataclass(frozen=True)
class Tree:
    """One interface shaped to ``rate_bps`` of IP bytes, with a queue of about ``queue_bytes``."""

    interface: str
    rate_bps: int
    queue_bytes: int

    def __post_init__(self) -> None:
        if self.rate_bps < MIN_RATE_BPS:
            raise UserError(
                f"{self.interface}: rate: expected at least {MIN_RATE_BPS} bit/s, got "
                f"{self.rate_bps}; floor the trace, or model the outage as one"
            )

    def with_rate(self, rate_bps: int) -> Tree:
        """The same tree at another rate."""
        return replace(self, rate_bps=rate_bps)

    @property
    def class_bytes_per_s(self) -> int:
        """The class's rate and ceil as the kernel holds it: link bytes per second."""
        return -(-framing.class_rate_bps(self.rate_bps) // 8)

    @property
    def class_bps(self) -> int:
        """The class's rate and ceil in link bits per second."""
        return self.class_bytes_per_s * 8

    @property
    def burst_us(self) -> int:
        """Bucket depth in time, rounded up to the whole microseconds that pyroute2 encodes."""
        return -(-framing.burst_bytes(self.rate_bps) * 10**6 // self.class_bytes_per_s)

    @property
    def burst_bytes(self) -> int:
        """Bucket depth (burst and cburst) in link bytes, never under ``framing.burst_bytes``."""
        return self.burst_us * self.class_bytes_per_s // 10**6

    @property
    def quantum_bytes(self) -> int:
        """HTB's quantum, within the bounds that HTB accepts without a warning."""
        return min(max(self.class_bytes_per_s // 10, MIN_QUANTUM_BYTES), MAX_QUANTUM_BYTES)

    @property
    def queue_packets(self) -> int:
        """Limit of the leaf; pfifo counts packets, so bytes mean full-size ones."""
        return max(MIN_QUEUE_PACKETS, self.queue_bytes // framing.LINK_FRAME_BYTES)

    @property
    def held_bytes(self) -> int:
        """What the leaf really holds, in link bytes of full-size packets."""
        return self.queue_packets * framing.LINK_FRAME_BYTES


def tree_from_json(document: Mapping[str, Any]) -> Tree:
    """A tree from ``{"interface", "rate_bps", "queue_bytes"}``; raises UserError."""
    expected = {"interface", "rate_bps", "queue_bytes"}
    if set(document) != expected:
        raise UserError(
            f"link: expected the keys {', '.join(sorted(expected))} for a direction, got "
            f"{', '.join(sorted(document)) or 'none'}"
        )
    return Tree(document["interface"], document["rate_bps"], document["queue_bytes"])


def format_handle(handle: int) -> str:
    """A handle as ``tc`` writes it: ``5d7b:``, ``5d7b:1``, ``root``."""
    if handle == 0xFFFFFFFF:
        return "root"
    major, minor = handle >> 16, handle & 0xFFFF
    return f"{major:x}:{minor:x}" if minor else f"{major:x}:"


def render_tc(tree: Tree) -> tuple[str, ...]:
    """The tree as the ``tc`` commands a person would type."""
    dev, root = f"dev {tree.interface}", format_handle(ROOT_HANDLE)
    shaped, leaf = format_handle(CLASS_HANDLE), format_handle(LEAF_HANDLE)
    rate, burst = f"{tree.class_bps}bit", f"{tree.burst_bytes}b"
    return (
        f"tc qdisc add {dev} root handle {root} htb default 0",
        f"tc class add {dev} parent {root} classid {shaped} htb rate {rate} ceil {rate} "
        f"burst {burst} cburst {burst} quantum {tree.quantum_bytes}",
        f"tc qdisc add {dev} parent {shaped} handle {leaf} pfifo limit {tree.queue_packets}",
        f"tc filter add {dev} parent {root} protocol ip prio 1 u32 match u32 0 0 flowid {shaped}",
    )
