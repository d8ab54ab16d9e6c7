"""What a payload weighs on the link, in one place.

Everywhere in the project a **rate** counts IP bytes (what bandwidth traces count). The kernel's
HTB class counts the link header too, so the class is set to ``class_rate_bps(rate)``.
"""

from __future__ import annotations

MTU_BYTES = 1500
LINK_FRAME_BYTES = 1514  # MTU plus the Ethernet header, as HTB counts a packet
MSS_BYTES = 1448  # TCP payload of one packet: MTU − 20 (IP) − 20 (TCP) − 12 (timestamps)


def class_rate_bps(rate_bps: int) -> int:
    """The HTB class rate that carries ``rate_bps`` of IP bytes."""
    return -(-rate_bps * LINK_FRAME_BYTES // MTU_BYTES)


def ip_bytes(payload_bytes: int) -> int:
    """IP bytes of a TCP payload sent in full segments."""
    segments = -(-payload_bytes // MSS_BYTES)
    return payload_bytes + segments * (MTU_BYTES - MSS_BYTES)


def burst_bytes(rate_bps: float) -> int:
    """Bucket depth of the shaped class at a rate: ``max(5·MTU, rate·1 ms)``, in link bytes.

    Five packets ride out a late timer; more would be a free gift to small payloads.
    """
    return max(5 * LINK_FRAME_BYTES, round(rate_bps / 8 / 1000))


def burst_ip_bytes(rate_bps: float) -> int:
    """The same bucket in IP bytes."""
    return burst_bytes(rate_bps) * MTU_BYTES // LINK_FRAME_BYTES


def serialisation_ns(payload_bytes: int, rate_bps: float) -> int:
    """Least time a TCP payload needs on an idle shaped link: ``(wire bytes − burst) / rate``.

    Raises ZeroDivisionError for a rate of zero: an outage has no finite time.
    """
    excess = ip_bytes(payload_bytes) - burst_ip_bytes(rate_bps)
    return max(0, round(excess * 8e9 / rate_bps))
