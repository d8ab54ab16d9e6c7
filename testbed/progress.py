"""What a person sees while a campaign runs: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from testbed.orchestrator.plan import PlannedRun
from testbed.units import format_rate

_REFRESH_S = 0.25


class Display:
    """Listens to a campaign. Leaving the context ends the live display.

    On a terminal: one bar over the whole campaign (time, not runs, so that it moves), with the
    policy, the rates set, the split chosen, the last latency and the time left. Elsewhere: one
    line a stage and one a run.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._rate: dict[str, int] = {}
        self._last: dict[str, Any] = {}
        self._latencies_ns: list[int] = []
        self._task: Any = None
        self._shown_s = 0.0
        self._begun_s = 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            transient=True,
        )

    def __enter__(self) -> Display:
        if self._live:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._progress.stop()

    def stage(self, text: str) -> None:
        """A step of the set-up begins."""
        self._console.print(f"· {text}", highlight=False)

    def run_started(self, planned: PlannedRun, total: int) -> None:
        """A run begins."""
        self._begun_s = time.monotonic()
        self._latencies_ns = []
        self._rate, self._last = {}, {}
        if not self._live:
            return
        if self._task is None:
            self._task = self._progress.add_task("", total=None, state="")
        name = "profile" if planned.index < 0 else f"run {planned.index + 1}/{total}"
        if planned.index >= 0:
            span = planned.duration_ns / 1e9
            self._progress.update(self._task, total=total * span, completed=planned.index * span)
        self._progress.update(self._task, description=f"{name} {planned.policy}", state="warm-up")

    def record(self, role: str, file: str, record: dict[str, Any]) -> None:
        """A record of the run in progress; called from a reader thread."""
        if file == "queries" and record["kind"] == "measured":
            self._last = record
            self._latencies_ns.append(record["e2e_ns"])
        elif file == "link" and "rate_bps" in record:
            self._rate[record["direction"]] = record["rate_bps"]
        now_s = time.monotonic()
        if self._live and self._task is not None and now_s - self._shown_s > _REFRESH_S:
            elapsed_s = now_s - max(self._shown_s, self._begun_s) if self._last else 0.0
            self._shown_s = now_s
            self._progress.update(self._task, advance=elapsed_s, state=self._state())

    def _state(self) -> str:
        if not self._last:
            return "warm-up"
        rate = self._rate.get("uplink")
        return (
            f"{'↑ ' + format_rate(rate) if rate else ''}  split {self._last['split']}  "
            f"{self._last['e2e_ns'] / 1e6:.0f} ms"
        )

    def run_finished(self, planned: PlannedRun, manifest: dict[str, Any]) -> None:
        """A run ended: one line with what it gave."""
        latencies = sorted(self._latencies_ns)
        name = f"{planned.link} {planned.load} {planned.policy}".ljust(32)
        told = f"{len(latencies)} queries"
        if latencies:
            told += f", median {latencies[len(latencies) // 2] / 1e6:.1f} ms"
        state = manifest["state"] if manifest["state"] != "complete" else manifest["validity"]
        reasons = f" ({'; '.join(manifest['reasons'])})" if manifest["reasons"] else ""
        self._console.print(f"  {name} {told}, {state}{reasons}", highlight=False, markup=False)
