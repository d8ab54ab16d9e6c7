"""A second way to finish a query while the first one is late."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable

from testbed.worker.layout import ServerTimes


class Hedge:
    """Runs the tail here once a reply is later than ``after_ns``; whoever is first has won.

    One query's; :meth:`join` before the buffer with its tensor is used again.
    """

    def __init__(self, after_ns: int, finish: Callable[[], ServerTimes]) -> None:
        self._after_ns = after_ns
        self._finish = finish
        self._thread: threading.Thread | None = None
        self._pair: tuple[socket.socket, ...] = ()
        self._times: ServerTimes | None = None
        self._error: Exception | None = None

    @property
    def started(self) -> bool:
        """Whether the reply was late enough for it."""
        return self._thread is not None

    def overtakes(self, sock: socket.socket, bound_ns: int) -> bool:
        """Wait for the reply's first byte or the tail's end; True where the tail was first.

        False after ``bound_ns`` too: the receiver then finds out what is the matter.
        """
        # Sending alone may have taken longer than the bound.
        first_s = max(0, min(self._after_ns, bound_ns)) / 1e9
        if select.select([sock], [], [], first_s)[0]:
            return False
        done, doing = self._pair = socket.socketpair()
        self._thread = threading.Thread(target=self._run, args=(doing,), name="hedge")
        self._thread.start()
        left_s = max(0, bound_ns - self._after_ns) / 1e9
        ready = select.select([sock, done], [], [], left_s)[0]
        return done in ready and sock not in ready

    def join(self) -> ServerTimes:
        """Wait for the tail that was started; raises what it raised."""
        assert self._thread is not None
        self._thread.join()
        for end in self._pair:
            end.close()
        if self._error is not None:
            raise self._error
        assert self._times is not None
        return self._times

    def _run(self, doing: socket.socket) -> None:
        try:
            self._times = self._finish()
        except Exception as error:  # raised again where it is waited for
            self._error = error
        doing.send(b"\0")
