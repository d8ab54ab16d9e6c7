"""``python -m testbed.link``: the link role on its standard input and output."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from testbed.control import Control, claim_stdio, serve
from testbed.link.role import LinkRole

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _ignore_signals() -> None:
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    _ignore_signals()  # the first is enough; a second must not cut the restoring short
    raise SystemExit(128 + number)


def main() -> int:
    """Serve until end of stdin or a signal; either way every interface is put back."""
    control = Control(*claim_stdio())
    role = LinkRole(control, os.environ)
    for number in _ENDING:
        signal.signal(number, _end)
    try:
        return serve("link", control, role)
    finally:
        _ignore_signals()
        role.close()  # again: a signal may have come while serve was putting things back


if __name__ == "__main__":
    sys.exit(main())
