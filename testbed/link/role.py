"""The link role: shape what it is told to, replay each run's schedules, put everything back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from testbed.control import Control, Message
from testbed.errors import GroupError, UserError
from testbed.link import host, modules
from testbed.link.ahead import Ahead
from testbed.link.guard import Guard
from testbed.link.interface import ShapedInterface
from testbed.link.realtime import real_time
from testbed.link.replay import (
    Event,
    Hold,
    Sample,
    Schedule,
    moments,
    replay,
    schedule_from_json,
    timeline,
)
from testbed.link.state import State
from testbed.link.tree import render_tc, tree_from_json

SAMPLE_INTERVAL_NS = 10**9


class LinkRole:
    """Messages in, shaped interfaces and ``link`` records out; all in the main thread."""

    def __init__(self, control: Control, environ: Mapping[str, str]) -> None:
        self._control = control
        self._environ = environ
        self._ipr: IPRoute | None = None
        self._ahead: Ahead | None = None
        self._shaped: dict[str, ShapedInterface] = {}
        self._schedules: dict[str, Schedule] = {}
        self._guard = Guard()

    def hello(self) -> Message:
        """What this host's kernel can do, and the settings that a shaped flow depends on."""
        sysctls = host.read_sysctls()
        return {
            "netem": host.has_netem(),
            "user_mode": host.is_user_mode(),
            "ingress": all(modules.try_all()[name] for name in ("ifb", "mirred")),
            "pyroute2": host.pyroute2_version(),
            "psched": Path("/proc/net/psched").read_text().strip(),
            "congestion_control": sysctls["net.ipv4.tcp_congestion_control"],
            "sysctls": sysctls,
        }

    def handle(self, message: Message) -> None:
        """Act on one message; after any failure but a UserError nothing stays shaped."""
        actions: dict[str, Callable[[Message], None]] = {
            "setup": self._set_up,
            "start": self._start,
            "go": self._go,
            "restore": self._restore,
        }
        action = actions.get(message["type"])
        if action is None:
            raise UserError(f"link: unknown message {message['type']!r}; expected {list(actions)}")
        try:
            action(message)
        except UserError:
            raise
        except Exception:
            self.close()
            raise

    def _set_up(self, message: Message) -> None:
        if self._shaped:
            raise UserError("link: is set up already; restore first")
        trees = {name: tree_from_json(doc) for name, doc in message["directions"].items()}
        interfaces = [tree.interface for tree in trees.values()]
        if len(set(interfaces)) != len(interfaces):
            raise UserError(f"link: expected one interface a direction, got {interfaces}")
        if self._ipr is None or self._ahead is None:
            self._ipr, self._ahead = IPRoute(), Ahead()
        whole = [tree.interface for tree in trees.values() if tree.flow is None]
        host.refuse_management_path(self._ipr, whole, self._environ)
        self._guard.claim(interfaces, message.get("owner", "somebody who gave no name"))
        try:
            # All are looked at before the first is changed: a refusal leaves nothing half done.
            shaped = {
                name: ShapedInterface(self._ipr, self._ahead, tree) for name, tree in trees.items()
            }
            self._guard.arm(shaped.values())
        except BaseException:
            self._guard.release()
            raise
        self._shaped = shaped
        after = {side.tree.interface: side.shape() for side in shaped.values()}
        self._control.send(
            "ready",
            before={side.tree.interface: side.before for side in shaped.values()},
            shaped=after,
            burst_bytes={name: tree.burst_bytes for name, tree in trees.items()},
            class_bps={name: tree.class_bps for name, tree in trees.items()},
            queue_bytes={name: tree.held_bytes for name, tree in trees.items()},
            tc={name: render_tc(tree) for name, tree in trees.items()},
            takes_seed={name: side.takes_seed for name, side in shaped.items()},
            offloads={
                side.tree.interface: [
                    name for name, was in side.before["offloads"].items() if was["active"]
                ]
                for side in shaped.values()
            },
        )

    def _start(self, message: Message) -> None:
        schedules = {n: schedule_from_json(doc) for n, doc in message["schedules"].items()}
        if set(schedules) != set(self._shaped):
            raise UserError(
                f"link: expected schedules for {sorted(self._shaped) or 'nothing: not set up'}, "
                f"got {sorted(schedules)}"
            )
        wanted = {n: tree_from_json(doc) for n, doc in message.get("directions", {}).items()}
        for name, schedule in schedules.items():
            tree = wanted.get(name, self._shaped[name].tree)
            for _, rate_bps in schedule.changes:
                tree.with_rate(rate_bps)  # refuses what cannot be set
            if schedule.outages and tree.outage is None:
                raise UserError(f"link: {name}: has outages, and nothing said what they do")
        for name, tree in wanted.items():
            side = self._shaped[name]
            if replace(side.tree, rate_bps=tree.rate_bps, hold_ns=0) != tree:
                side.reshape(tree)
        for name, schedule in schedules.items():
            self._shaped[name].to_rate(schedule.first_bps)()
        self._schedules = schedules
        self._control.send("started", counters=self._counters())

    def _go(self, message: Message) -> None:
        if not self._schedules:
            raise UserError("link: nothing to replay: start comes before go")
        schedules, self._schedules = self._schedules, {}
        planned = moments(timeline(schedules, SAMPLE_INTERVAL_NS), self._action)
        planned = chain([next(planned)], planned)  # the first is prepared before the start
        t0_ns, used_ns = time.monotonic_ns(), time.process_time_ns()
        self._control.send("went", t0_ns=t0_ns)
        late_ns: list[int] = []
        stopping = self._control.stopping
        with real_time() as is_real_time:
            for moment in replay(planned, t0_ns, time.monotonic_ns, stopping.wait):
                # Told only when all are done: no direction waits for another's record.
                records = [self._act(*one, t0_ns) for one in moment.planned]
                for record in filter(None, records):
                    if "late_ns" in record:
                        late_ns.append(record["late_ns"])
                    self._control.record("link", record)
        stopping.wait()  # where every schedule ends in "stop", the last rates stay until told
        self._control.send(
            "done",
            counters=self._counters(),
            changes=len(late_ns),
            late_p99_ns=percentile_99_ns(late_ns),
            late_max_ns=max(late_ns, default=None),
            real_time=is_real_time,
            cpu_ns=time.process_time_ns() - used_ns,
            shaped={s.tree.interface: s.state() for s in self._shaped.values()},
        )

    def _action(self, event: Event) -> Callable[[], Any]:
        side = self._shaped[event.direction]
        if isinstance(event, Sample):
            return side.counters
        if isinstance(event, Hold):
            return side.to_hold(event.owed_ns)
        return side.to_hold(event.outage_ns) if event.outage_ns else side.to_rate(event.rate_bps)

    def _act(self, event: Event, action: Callable[[], Any], t0_ns: int) -> Message | None:
        begun_ns = time.monotonic_ns()
        result = action()
        applied_ns = time.monotonic_ns()  # the kernel has acknowledged: in force from here at last
        if isinstance(event, Hold):
            return None
        if isinstance(event, Sample):
            return {"direction": event.direction, "t_ns": applied_ns, "sample": result}
        side = self._shaped[event.direction]
        planned_ns = t0_ns + event.t_ns
        outage = {"outage": side.tree.outage, "outage_ns": event.outage_ns}
        return {
            "direction": event.direction,
            "n": event.n,
            "t_planned_ns": planned_ns,
            "t_applied_ns": applied_ns,
            "late_ns": applied_ns - planned_ns,
            "took_ns": applied_ns - begun_ns,
            "rate_bps": event.rate_bps,
            "class_bps": 0 if event.outage_ns else side.tree.class_bps,
            "burst_bytes": side.tree.burst_bytes,
            **(outage if event.outage_ns else {}),
        }

    def _counters(self) -> dict[str, dict[str, int]]:
        return {name: side.counters() for name, side in self._shaped.items()}

    def _restore(self, message: Message) -> None:
        self._control.send("restored", after=self._put_back())

    def _put_back(self) -> dict[str, State | None]:
        after: dict[str, State | None] = {}
        outcomes: dict[str, BaseException | None] = {}
        with IPRoute() as ipr:
            for name, side in list(self._shaped.items()):
                interface = side.tree.interface
                try:
                    after[interface] = side.restore(ipr)
                    outcomes[interface] = None
                    del self._shaped[name]
                    self._guard.restored(interface)
                except Exception as error:  # one failure must not leave the other side shaped
                    outcomes[interface] = error
        if any(outcomes.values()):
            raise GroupError("link: restore", outcomes)
        self._guard.release()
        return after

    def close(self) -> None:
        """Put everything back; harmless when called again."""
        try:
            if self._shaped:
                self._put_back()
        finally:
            for opened in (self._ipr, self._ahead):
                if opened is not None:
                    opened.close()
            self._ipr = self._ahead = None


def percentile_99_ns(values_ns: list[int]) -> int | None:
    """The smallest value that at least 99 % of the values do not exceed; None for no values."""
    if not values_ns:
        return None
    rank = -(-len(values_ns) * 99 // 100)
    return sorted(values_ns)[rank - 1]
