"""Entry point of the workers: ``python -m testbed.worker device|server|load|build``."""

from __future__ import annotations

import sys

from testbed.control import Control, Role, claim_stdio, serve


def _make(name: str, control: Control) -> Role | None:
    # Each role is imported alone: a server needs no policy.
    if name == "device":
        from testbed.worker.device import DeviceRole

        return DeviceRole(control)
    if name == "server":
        from testbed.worker.server import ServerRole

        return ServerRole(control)
    if name == "load":
        from testbed.worker.load import LoadRole

        return LoadRole(control)
    if name == "build":
        from testbed.worker.build import BuildRole

        return BuildRole(control)
    return None


def main(arguments: list[str]) -> int:
    """Serve one role on stdin and stdout until end of stdin; returns the exit status."""
    # Before the imports: what a library prints must not reach the protocol.
    control = Control(*claim_stdio())
    role = _make(arguments[0], control) if len(arguments) == 1 else None
    if role is None:
        print("usage: python -m testbed.worker device|server|load|build", file=sys.stderr)
        return 2
    return serve(arguments[0], control, role)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
