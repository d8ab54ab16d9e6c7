"""Whether a finished run can be trusted, from what its roles reported. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# A change that comes later than this share of a step is not the trace any more.
LATE_SHARE_OF_STEP = 0.10
# Beyond this share of time stolen by neighbours, latencies say more about them than about us.
STEAL_SHARE = 0.05
NOT_OK_SHARE = 0.01


def judge(
    done: Mapping[str, Any], step_ns: int, link_roles: Iterable[str], not_ok: int
) -> tuple[str, list[str]]:
    """``valid`` or ``degraded`` with a one-line reason for each doubt."""
    reasons = []
    for role in link_roles:
        late_ns = done.get(role, {}).get("late_p99_ns") or 0
        if late_ns > LATE_SHARE_OF_STEP * step_ns:
            reasons.append(
                f"{role}: rate changes came up to {late_ns / 1e6:.1f} ms late (p99), more than "
                f"{LATE_SHARE_OF_STEP:.0%} of a {step_ns / 1e6:.0f} ms step"
            )
    device = done.get("device", {})
    steal = device.get("steal_share") or 0.0
    if steal > STEAL_SHARE:
        reasons.append(f"device: neighbours took {steal:.1%} of CPU time (bound {STEAL_SHARE:.0%})")
    queries = device.get("queries", 0)
    if not_ok > NOT_OK_SHARE * queries:
        reasons.append(f"device: {not_ok} of {queries} queries fell back to the device or failed")
    return ("degraded" if reasons else "valid"), reasons
