"""An interface that is set down and up again finds its neighbours, and they find it, at once.

With the interface the kernel forgets what it knew of them, and so do they when they see the carrier
go (net/core/neighbour.c: neigh_ifdown, neigh_carrier_down). Whoever then has something to send asks
by ARP, and again only once a second (retrans_time_ms): a question before the link is back, or an
answer while the other end's queue still waits for the carrier, costs that second.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ndmsg import NUD_NOARP, NUD_PERMANENT, NUD_STALE

from testbed.link.qdisc import asking_kernel

_ETH_P_ARP, _ETH_P_IP, _ETHERNET, _REQUEST = 0x0806, 0x0800, 1, 1  # linux/if_ether.h, if_arp.h
_BROADCAST, _NOBODY = b"\xff" * 6, bytes(6)


def announcement(hardware: bytes, address: str) -> bytes:
    """The frame by which the owner of an IPv4 address tells everybody its hardware address.

    A gratuitous ARP request (RFC 5227, 3) fills an entry that is being asked for, and what waits
    for it is sent at once; it makes no new one.
    """
    ip = socket.inet_aton(address)
    ethernet = _BROADCAST + hardware + struct.pack("!H", _ETH_P_ARP)
    kinds = struct.pack("!HHBBH", _ETHERNET, _ETH_P_IP, len(hardware), len(ip), _REQUEST)
    return ethernet + kinds + hardware + ip + _NOBODY + ip


class Neighbours:
    """What an interface knows of its IPv4 neighbours, and what it has to tell them."""

    def __init__(self, ipr: IPRoute, interface: str, index: int) -> None:
        """Without CAP_NET_RAW nothing will be told, and that goes to the log."""
        self._ipr, self._interface, self._index = ipr, interface, index
        link, found = ipr.get_links(index)[0], ipr.get_addr(family=socket.AF_INET, index=index)
        self._frames: list[bytes] = []
        if link["ifi_type"] == _ETHERNET:  # a tunnel has no hardware address, and nobody asks
            hardware = bytes.fromhex(link.get_attr("IFLA_ADDRESS").replace(":", ""))
            self._frames = [announcement(hardware, one.get_attr("IFA_LOCAL")) for one in found]
        self._known: list[dict[str, Any]] = []
        # Kept: to close one costs 5 to 20 ms, for which the kernel waits for every CPU.
        self._socket: socket.socket | None = None
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)  # of no protocol: deaf
        except OSError as error:
            print(
                f"{interface}: cannot announce itself after an outage: {error.strerror}; its "
                "neighbours may take up to 1 s to use it again (needs CAP_NET_RAW)",
                file=sys.stderr,
            )

    def remember(self) -> None:
        """Note whom it knows, unless it is down already and knows nobody."""
        known = []
        for entry in self._ipr.get_neighbours(family=socket.AF_INET, ifindex=self._index):
            hardware = entry.get_attr("NDA_LLADDR")
            if hardware is None or entry["state"] & NUD_NOARP:
                continue
            state = entry["state"] & NUD_PERMANENT or NUD_STALE  # used at once, and checked later
            known.append({"dst": entry.get_attr("NDA_DST"), "lladdr": hardware, "state": state})
        self._known = known or self._known

    def meet(self) -> None:
        """Once it is up: know them again, and be known."""
        for entry in self._known:
            with asking_kernel(f"{self._interface}: neighbour {entry['dst']}"):
                self._ipr.neigh("replace", ifindex=self._index, **entry)
        if self._socket is not None:
            for frame in self._frames:
                self._socket.sendto(frame, (self._interface, _ETH_P_ARP))

    def close(self) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()
