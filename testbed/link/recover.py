"""Put interfaces back from their journals, long after the role that shaped them.

``python -m testbed.link.recover restore|clear|show`` prints one JSON document:
``restore`` replays the journals that nobody holds, ``clear`` first asks the holders to end,
``show`` only looks.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from testbed.errors import TestbedError
from testbed.link import journal as journals
from testbed.link.interface import put_back
from testbed.link.journal import Entry, Journal
from testbed.link.state import read_state

HOLDER_PATIENCE_S, PACE_S = 10.0, 0.05
NETNS_FOLDER = Path("/run/netns")


def hardware_address(ipr: IPRoute, index: int) -> str | None:
    """The interface's hardware address, None where it has none or is gone."""
    found = [link for link in ipr.get_links() if link["index"] == index]
    address: str | None = found[0].get_attr("IFLA_ADDRESS") if found else None
    return address


def replay(journal: Journal) -> str:
    """Put one interface of this namespace back and discard its journal; what was done.

    Raises TestbedError naming what could not be put back; the journal then stays, with the fault.
    """
    entry = journal.entry()
    if entry is None or entry.before is None:
        journal.discard()
        return "nothing had been changed"
    try:
        with IPRoute() as ipr:
            same = hardware_address(ipr, entry.index) == entry.address
            after = same and put_back(ipr, entry.interface, entry.index, entry.before)
    except Exception as error:
        journal.write(replace(entry, fault=f"{type(error).__name__}: {error}"))
        journal.close()
        raise
    journal.discard()
    return "put back as it was" if after else "the interface is gone"


def _namespaces() -> set[int]:
    """Inodes of the network namespaces that have a name or a process."""
    places = [*Path("/proc").glob("[0-9]*/ns/net")]
    places += NETNS_FOLDER.iterdir() if NETNS_FOLDER.is_dir() else ()
    found = set()
    for place in places:
        with suppress(OSError):  # the process has ended, or is not ours to look at
            found.add(place.stat().st_ino)
    return found


def _ours() -> Iterator[tuple[Path, Entry | None]]:
    """Journals of this namespace, and those whose namespace or boot is gone."""
    living, here, boot = _namespaces(), journals.namespace_id(), journals.boot_id()
    for path in journals.paths():
        entry = journals.read(path)
        gone = entry is None or entry.boot_id != boot or entry.namespace not in living
        if gone or (entry is not None and entry.namespace == here):
            yield path, None if gone else entry


def restore() -> list[dict[str, Any]]:
    """Replay every journal that nobody holds; one line for each, held ones included."""
    told = []
    for path, entry in _ours():
        journal = Journal.lock(path)
        line: dict[str, Any] = {"interface": entry.interface if entry else path.stem, "ok": True}
        if journal is None:
            owner = entry.told() if entry else "a role that is just starting"
            told.append({**line, "held": True, "text": f"held by {owner}"})
            continue
        try:
            if entry is None:  # its namespace or its boot is gone, and with it all that was shaped
                journal.discard()
                text = "its namespace is gone"
            else:
                text = replay(journal)
        except TestbedError as error:
            line["ok"], text = False, str(error)
        told.append({**line, "held": False, "text": text})
    return told


def clear() -> list[dict[str, Any]]:
    """Ask every holder to end, which puts its interfaces back, then restore what is left."""
    holders = {entry.pid for path, entry in _ours() if entry and _is_held(path)}
    for pid in holders:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline_s = time.monotonic() + HOLDER_PATIENCE_S
    while any(_is_held(path) for path, _ in _ours()) and time.monotonic() < deadline_s:
        time.sleep(PACE_S)  # a file lock cannot be waited for with a bound
    ended = [{"interface": f"role {pid}", "ok": True, "text": "ended"} for pid in sorted(holders)]
    return ended + restore()


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    journal = Journal.lock(path)
    if journal is not None:
        journal.close()
    return journal is None


def show() -> list[dict[str, Any]]:
    """What is shaped here: its holder, and the interface's state and counters now."""
    told = []
    with IPRoute() as ipr:
        for path, entry in _ours():
            if entry is None or ipr.link_lookup(ifname=entry.interface) != [entry.index]:
                continue
            summary = {key: value for key, value in asdict(entry).items() if key != "before"}
            state = read_state(ipr, entry.interface, entry.index)
            told.append({**summary, "held": _is_held(path), "told": entry.told(), "state": state})
    return told


def main(argv: list[str]) -> int:
    """Print the outcome as one JSON line."""
    actions = {"restore": restore, "clear": clear, "show": show}
    print(json.dumps(actions[argv[0]]()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
