"""What must stand before the first change to an interface: lock, journal, watchdog."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from pyroute2 import IPRoute

from testbed.link import recover
from testbed.link.interface import ShapedInterface
from testbed.link.journal import Entry, Journal, boot_id, namespace_id
from testbed.link.recover import hardware_address
from testbed.link.state import State
from testbed.link.watchdog import Watchdog


class Guard:
    """The journals and the watchdog of one role."""

    def __init__(self) -> None:
        self._journals: dict[str, Journal] = {}
        self._watchdog: Watchdog | None = None
        self._owner = ""

    def claim(self, interfaces: Iterable[str], owner: str) -> None:
        """Lock every interface for the owner, under a watchdog; what a dead role left goes first.

        Raises UserError where another campaign holds one: then none is held.
        """
        self._owner = owner
        try:
            for interface in interfaces:
                journal = Journal.claim(interface)
                if journal.entry() is not None:
                    recover.replay(journal)
                    journal = Journal.claim(interface)
                self._journals[interface] = journal
                journal.write(self._entry(interface, 0, None))
            self._watchdog = Watchdog(list(self._journals.values()))
        except BaseException:
            self.release()
            raise

    def arm(self, sides: Iterable[ShapedInterface]) -> None:
        """Write down how the interfaces are now; from here on they may be changed."""
        with IPRoute() as ipr:
            for side in sides:
                address = hardware_address(ipr, side.index)
                entry = self._entry(side.tree.interface, side.index, address, side.before)
                self._journals[side.tree.interface].write(entry)

    def _entry(
        self, interface: str, index: int, address: str | None, before: State | None = None
    ) -> Entry:
        return Entry(
            interface=interface,
            index=index,
            address=address,
            owner=self._owner,
            pid=os.getpid(),
            since_s=time.time(),
            boot_id=boot_id(),
            namespace=namespace_id(),
            before=before,
        )

    def restored(self, interface: str) -> None:
        """One interface is as it was: let go of it."""
        if journal := self._journals.pop(interface, None):
            journal.discard()

    def release(self) -> None:
        """Nothing is shaped any more: let go of everything."""
        for interface in list(self._journals):
            self.restored(interface)
        if self._watchdog is not None:
            self._watchdog.leave()
            self._watchdog = None
