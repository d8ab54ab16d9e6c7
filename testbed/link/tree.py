"""The qdisc tree of one shaped interface, as a pure description.

An HTB root whose own handle is our tag, one class that holds the rate, a leaf (pfifo, or netem
where the link does more than limit), and a u32 filter that sends all IPv4, or one flow, into the
class. The root has no default class: what is not classified (ARP, say) passes unshaped. HTB, and
neither TBF nor netem's rate, because a change of its class keeps the queue, applies to the backlog
and does not refill the bucket.

At a receiver's ingress the same tree stands on an interface of our own (ifb), to which what
arrives is redirected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

from testbed import framing
from testbed.errors import UserError
from testbed.link.netem import Netem, netem_from_json, render_netem

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
INGRESS_HANDLE = 0xFFFF0000
DROP_HANDLE = 0x5D7E0000
# What HTB is told that each packet weighs while the link is held (see Tree.held); 16 bits.
HELD_PACKET_BYTES = 60_000
MAX_HOLD_NS = 59 * 10**9  # HTB forgets debts beyond a minute
OUTAGES = ("drop", "hold", "down")


@dataclass(frozen=True)
class Flow:
    """The packets to shape where an interface carries others too, by the far end and TCP/UDP port.

    ``ports`` are the server's, so ``peer_is_server`` tells at which end of a packet they stand.
    """

    peer: str
    ports: tuple[int, ...]
    peer_is_server: bool

    def u32_keys(self, ingress: bool) -> tuple[tuple[str, ...], ...]:
        """u32 matches, one list a port, of packets that leave (or, at ingress, arrive)."""
        from_peer, port_at_source = ingress, self.peer_is_server == ingress
        address = f"{int(IPv4Address(self.peer)):#010x}/0xffffffff+{12 if from_peer else 16}"
        shift, mask = (16, "0xffff0000") if port_at_source else (0, "0x0000ffff")
        return tuple((address, f"{port << shift:#010x}/{mask}+20") for port in self.ports)


@dataclass(frozen=True)
class Tree:
    """One interface shaped to ``rate_bps`` of IP bytes, with a queue of about ``queue_bytes``.

    Attributes:
        peak_bps: the highest rate it will be set to; 0 for ``rate_bps``.
        netem: impairments beside the rate, or None.
        flow: what is shaped, or None for all IPv4.
        ingress: shape what arrives at the interface, not what leaves it.
        outage: what a rate of zero in a schedule does, one of ``OUTAGES``, or None.
        hold_ns: how long nothing passes from now on, or 0.
    """

    interface: str
    rate_bps: int
    queue_bytes: int
    peak_bps: int = 0
    netem: Netem | None = None
    flow: Flow | None = None
    ingress: bool = False
    outage: str | None = None
    hold_ns: int = 0

    def __post_init__(self) -> None:
        if self.outage is not None and self.outage not in OUTAGES:
            raise UserError(
                f"{self.interface}: outage: expected {', '.join(OUTAGES)}, got {self.outage!r}"
            )
        if self.rate_bps < MIN_RATE_BPS:
            raise UserError(
                f"{self.interface}: rate: expected at least {MIN_RATE_BPS} bit/s, got "
                f"{self.rate_bps}; floor the trace, or model the outage as one"
            )

    def with_rate(self, rate_bps: int) -> Tree:
        """The same tree at another rate."""
        return replace(self, rate_bps=rate_bps, hold_ns=0)

    def held(self, owed_ns: int) -> Tree:
        """The same tree with nothing passing for so long after one packet.

        HTB charges a packet in time, at the rate of the moment. Here every packet is charged as
        60 kB, whatever its size, at a rate at which these last as long as it owes. A lower rate
        alone would owe for seconds afterwards.
        """
        return replace(self, hold_ns=max(1, min(owed_ns, MAX_HOLD_NS)))

    @property
    def class_bytes_per_s(self) -> int:
        """The class's rate and ceil as the kernel holds it: link bytes per second."""
        if self.hold_ns:
            return -(-HELD_PACKET_BYTES * 10**9 // self.hold_ns)
        return -(-framing.class_rate_bps(self.rate_bps) // 8)

    @property
    def class_bps(self) -> int:
        """The class's rate and ceil in link bits per second."""
        return self.class_bytes_per_s * 8

    @property
    def burst_us(self) -> int:
        """Bucket depth in time, rounded up to the whole microseconds that pyroute2 encodes."""
        if self.hold_ns:
            return 1
        return -(-framing.burst_bytes(self.rate_bps) * 10**6 // self.class_bytes_per_s)

    @property
    def burst_bytes(self) -> int:
        """Bucket depth (burst and cburst) in link bytes, never under ``framing.burst_bytes``."""
        return self.burst_us * self.class_bytes_per_s // 10**6

    @property
    def overhead_bytes(self) -> int:
        """What the class adds to each packet's size: a full one then weighs what it is to."""
        return HELD_PACKET_BYTES - framing.LINK_FRAME_BYTES if self.hold_ns else 0

    @property
    def least_bytes(self) -> int:
        """What the class takes a smaller packet for, that addition included."""
        return HELD_PACKET_BYTES if self.hold_ns else 0

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

    @property
    def leaf_packets(self) -> int:
        """Limit of the leaf; netem's also counts the packets that only wait for their delay."""
        if self.netem is None:
            return self.queue_packets
        longest_ns = self.netem.delay_ns + self.netem.jitter_ns
        peak_bps = framing.class_rate_bps(max(self.peak_bps, self.rate_bps))
        in_flight = -(-peak_bps * longest_ns // (framing.LINK_FRAME_BYTES * 8 * 10**9))
        return self.queue_packets + in_flight

    @property
    def leaf_kind(self) -> str:
        """Kind of the leaf qdisc."""
        return "pfifo" if self.netem is None else "netem"


_REQUIRED = ("interface", "rate_bps", "queue_bytes")
_OPTIONAL = ("peak_bps", "netem", "flow", "ingress", "outage")


def tree_from_json(document: Mapping[str, Any]) -> Tree:
    """A tree from its fields by name, ``hold_ns`` apart; raises UserError for any other key."""
    if not set(_REQUIRED) <= set(document) <= {*_REQUIRED, *_OPTIONAL}:
        raise UserError(
            f"link: expected the keys {', '.join(_REQUIRED)} for a direction, and perhaps "
            f"{', '.join(_OPTIONAL)}, got {', '.join(sorted(document)) or 'none'}"
        )
    netem = netem_from_json(document["netem"]) if document.get("netem") else None
    flow = document.get("flow")
    return Tree(
        document["interface"],
        document["rate_bps"],
        document["queue_bytes"],
        document.get("peak_bps", 0),
        None if netem is None or netem.is_idle else netem,
        Flow(flow["peer"], tuple(flow["ports"]), flow["peer_is_server"]) if flow else None,
        document.get("ingress", False),
        document.get("outage"),
    )


def ifb_name(index: int) -> str:
    """The name of our own interface for what arrives at the interface of this index."""
    return f"tbifb{index}"


def format_handle(handle: int) -> str:
    """A handle as ``tc`` writes it: ``5d7b:``, ``5d7b:1``, ``root``."""
    if handle == 0xFFFFFFFF:
        return "root"
    major, minor = handle >> 16, handle & 0xFFFF
    return f"{major:x}:{minor:x}" if minor else f"{major:x}:"


def render_tc(tree: Tree) -> tuple[str, ...]:
    """The tree as the ``tc`` commands a person would type."""
    name = f"ifb-of-{tree.interface}" if tree.ingress else tree.interface
    dev, root = f"dev {name}", format_handle(ROOT_HANDLE)
    shaped, leaf = format_handle(CLASS_HANDLE), format_handle(LEAF_HANDLE)
    rate, burst = f"{tree.class_bps}bit", f"{tree.burst_bytes}b"
    options = f"limit {tree.leaf_packets}"
    if tree.netem is not None:
        options = render_netem(tree.netem, tree.leaf_packets)
    lines = (
        f"tc qdisc add {dev} root handle {root} htb default 0",
        f"tc class add {dev} parent {root} classid {shaped} htb rate {rate} ceil {rate} "
        f"burst {burst} cburst {burst} quantum {tree.quantum_bytes}",
        f"tc qdisc add {dev} parent {shaped} handle {leaf} {tree.leaf_kind} {options}",
    )
    flows = [" ".join(map(_render_key, keys)) for keys in flow_keys(tree)]
    if not tree.ingress:
        return lines + tuple(
            f"tc filter add {dev} parent {root} protocol ip prio 1 u32 {match} flowid {shaped}"
            for match in flows
        )
    return (
        f"ip link add {name} up type ifb",
        *lines,
        f"tc filter add {dev} parent {root} protocol ip prio 1 u32 match u32 0 0 flowid {shaped}",
        f"tc qdisc add dev {tree.interface} handle {format_handle(INGRESS_HANDLE)} ingress",
        *(
            f"tc filter add dev {tree.interface} parent {format_handle(INGRESS_HANDLE)} protocol "
            f"ip prio 1 u32 {match} action mirred egress redirect dev {name}"
            for match in flows
        ),
    )


MATCH_ALL = (("0x0/0x0+0",),)


def flow_keys(tree: Tree) -> tuple[tuple[str, ...], ...]:
    """u32 matches of what the tree shapes, where it enters: one list a filter."""
    return MATCH_ALL if tree.flow is None else tree.flow.u32_keys(tree.ingress)


def _render_key(key: str) -> str:
    value, _, rest = key.partition("/")
    mask, _, offset = rest.partition("+")
    if int(mask, 16) == 0:
        return "match u32 0 0"
    return f"match u32 {value} {mask} at {offset}"
