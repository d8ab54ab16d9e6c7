"""Who is told how a campaign goes, while it goes."""

from __future__ import annotations

from typing import Any, Protocol

from testbed.orchestrator.plan import PlannedRun


class Listener(Protocol):
    """What the person at the terminal is told while a campaign runs."""

    def stage(self, text: str) -> None:
        """A step of the set-up begins."""

    def run_started(self, planned: PlannedRun, total: int) -> None:
        """A run begins."""

    def record(self, role: str, file: str, record: dict[str, Any]) -> None:
        """A record of the run in progress; called from a reader thread."""

    def run_finished(self, planned: PlannedRun, manifest: dict[str, Any]) -> None:
        """A run ended."""
