"""What can go wrong, by who can mend it.

Every message is one line: what, where, expected, actual, remedy. The command line turns a
:class:`TestbedError` into that line and an exit code; a traceback is only ever a bug of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class TestbedError(Exception):
    """Something failed while running: exit code 1."""

    __test__ = False  # pytest would otherwise collect the class by its name
    exit_code = 1


class UserError(TestbedError):
    """The caller's mistake (a file, an option, a missing host): exit code 2."""

    exit_code = 2


class NewerRelease(UserError):
    """A file of a release that this one does not know, and so cannot judge."""


class HostError(TestbedError):
    """One host did not do what it was asked; the message begins with the host's name."""

    def __init__(self, host: str, message: str) -> None:
        super().__init__(f"{host}: {message}")
        self.host = host


class GroupError(TestbedError):
    """Several hosts were asked at once and some failed; every host's outcome is kept.

    Attributes:
        outcomes: host name to the error it raised, or None where it succeeded.
        results: what the hosts that succeeded gave; it is not lost with the others' failure.
    """

    def __init__(
        self,
        what: str,
        outcomes: Mapping[str, BaseException | None],
        results: Mapping[str, Any] | None = None,
    ) -> None:
        self.outcomes = dict(outcomes)
        self.results = dict(results or {})
        told = "; ".join(_named(host, error) for host, error in self.outcomes.items())
        super().__init__(f"{what}: {told}")
        if any(isinstance(err, UserError) for err in self.outcomes.values()):
            self.exit_code = UserError.exit_code


def _named(host: str, error: BaseException | None) -> str:
    told = str(error or "ok")
    return told if told.startswith(f"{host}: ") else f"{host}: {told}"
