"""The timing record: what one query or probe took, as the device tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from testbed.policy.agent import Decision
from testbed.policy.protocol import Outcome
from testbed.worker.client import Reply
from testbed.worker.layout import ServerTimes

_NO_TIMES = ServerTimes(0, 0, 0, None, None, b"")


@dataclass(frozen=True)
class Timing:
    """One query or probe that ended; durations and the device's monotonic times.

    ``reply`` is None where nothing came back: the query was local, or its exchange failed, and
    ``here`` then holds the decode and tail that the device did itself.
    """

    query: int
    kind: Literal["warmup", "measured", "probe"]
    decision: Decision
    encoding: str
    start_ns: int
    decide_ns: int
    head_ns: int
    encode_ns: int
    end_ns: int
    reply: Reply | None = None
    here: ServerTimes = _NO_TIMES
    status: Literal["ok", "fallback", "failed", "dropped"] = "ok"
    due_ns: int | None = None
    correct: int | None = None  # images classified rightly, where labels and logits are known

    @cached_property
    def times(self) -> ServerTimes:
        """Wait, decode and tail, wherever the tail ran."""
        return self.reply.times if self.reply else self.here

    @property
    def e2e_ns(self) -> int:
        """From due to done; in a closed loop a query is due when it starts."""
        return self.end_ns - (self.start_ns if self.due_ns is None else self.due_ns)

    @property
    def network_ns(self) -> int:
        """Start to end, less the device's work, less the residence at the server."""
        work_ns = self.decide_ns + self.head_ns + self.encode_ns
        wait_ns, decode_ns, tail_ns = self.times[:3]
        return self.end_ns - self.start_ns - work_ns - (wait_ns + decode_ns + tail_ns)

    def outcome(self) -> Outcome:
        """What the agent learns from it; a dropped query teaches nothing."""
        assert self.status != "dropped", "it never began"
        return Outcome(
            now_ns=self.end_ns,
            split=self.decision.split,
            e2e_ns=self.end_ns - self.start_ns,
            head_ns=self.head_ns,
            network_ns=self.network_ns,
            tail_ns=self.times.tail_ns,
            span_bytes=self.times.span_bytes,
            span_ns=self.times.span_ns,
            status=self.status,
            kind=self.kind,
            wait_ns=self.times.wait_ns,
        )

    def record(
        self,
        *,
        run_id: str,
        device: str,
        batch: int,
        policy: str,
        steal_ticks: int | None,
        late_after_ns: int | None,
    ) -> Mapping[str, Any]:
        """The line of ``queries.jsonl``; ``uplink_ns`` and ``reply_ns`` need a clock bound."""
        times, reply, decision = self.times, self.reply, self.decision
        return {
            "run_id": run_id,
            "device": device,
            "query": self.query,
            "kind": self.kind,
            "batch": batch,
            "policy": policy,
            "split": decision.split,
            "encoding": self.encoding,
            "t_due_ns": self.start_ns if self.due_ns is None else self.due_ns,
            "t_start_ns": self.start_ns,
            "decide_ns": self.decide_ns,
            "head_ns": self.head_ns,
            "encode_ns": self.encode_ns,
            "send_ns": reply.send_ns if reply else 0,
            "uplink_ns": None,
            "server_wait_ns": times.wait_ns,
            "decode_ns": times.decode_ns,
            "tail_ns": times.tail_ns,
            "reply_ns": None,
            "e2e_ns": self.e2e_ns,
            "bytes_up": reply.bytes_up if reply else 0,
            "bytes_down": reply.bytes_down if reply else 0,
            "rate_est_bps": decision.rate_bps,
            "load_est": decision.load,
            "wait_est_ns": decision.wait_ns,
            "predicted_ns": decision.predicted_ns,
            "network_ns": self.network_ns,
            "span_bytes": times.span_bytes,
            "span_ns": times.span_ns,
            "steal_ticks": steal_ticks,
            "status": self.status,
            "correct": self.correct,
            "late": late_after_ns is not None and self.e2e_ns > late_after_ns,
        }
