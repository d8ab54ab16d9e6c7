"""Requests to the kernel that are encoded ahead of their moment.

To encode a change of rate costs pyroute2 1–2 ms (most of it the kernel's table of transmission
times); to send it and hear the kernel's answer costs 10 µs. So a replay encodes while it waits.
"""

from __future__ import annotations

import os
import socket
import struct

from pyroute2 import IPBatch
from pyroute2.netlink.exceptions import NetlinkError

TIMEOUT_S = 5.0
_SEQUENCE = struct.Struct("=I")  # linux/netlink.h: nlmsghdr has it at 8
_ERROR = struct.Struct("=i")  # nlmsgerr, behind the header: 0 is the acknowledgement
_SEQUENCE_AT, _ERROR_AT, _ROOM_BYTES = 8, 16, 1 << 16


class Ahead:
    """A place to encode single requests, and a socket to send them; made and used in one thread."""

    def __init__(self) -> None:
        self.batch = IPBatch()  # takes requests as an IPRoute does, and sends nothing
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(TIMEOUT_S)

    def take(self) -> bytes:
        """The one request asked of :attr:`batch` since the last call."""
        request = bytes(self.batch.batch)
        self.batch.reset()
        return request

    def send(self, request: bytes) -> None:
        """Send a request; returns once it is in force, raises NetlinkError where it is refused."""
        (sequence,) = _SEQUENCE.unpack_from(request, _SEQUENCE_AT)
        self._socket.send(request)
        while True:
            answer = self._socket.recv(_ROOM_BYTES)
            # An earlier request's answer may wait still: a signal had cut the listening short.
            if _SEQUENCE.unpack_from(answer, _SEQUENCE_AT) == (sequence,):
                break
        (error,) = _ERROR.unpack_from(answer, _ERROR_AT)
        if error:
            raise NetlinkError(-error, os.strerror(-error))

    def close(self) -> None:
        """Give both sockets back."""
        self._socket.close()
        self.batch.close()
