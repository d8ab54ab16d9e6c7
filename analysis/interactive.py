"""The distribution of latency as plain SVG that a small script lets the reader question."""

from __future__ import annotations

from html import escape
from math import log10

import numpy as np
import pandas as pd

from analysis.figures.marks import log_marks
from analysis.formats import number
from analysis.metrics import by_policy, counted
from analysis.policies import DYNAMIC, policy_label

_WIDTH, _HEIGHT = 880, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 44
_POINTS = 200  # of a line; every step of a short run, quantiles of a long one
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def interactive_distribution(queries: pd.DataFrame, colours: dict[str, str]) -> str:
    """Share of queries answered within a time, a line a policy, with buttons to hide each.

    Without the script (on paper) it is the same picture with its legend.
    """
    done = counted(queries, "e2e_ns")
    series = {p: np.sort(rows["e2e_ns"].to_numpy()) / 1e6 for p, rows in by_policy(done)}
    low = min(values[0] for values in series.values())
    high = max(values[-1] for values in series.values())
    scale = _Scale(low, max(high, low * 1.01))
    buttons, lines = [], []
    for policy, values in series.items():
        colour = "currentColor" if policy == DYNAMIC else colours[policy]
        label = escape(policy_label(policy))
        shares, times = steps(values)
        told = f'data-ms="{_joined(times)}" data-share="{_joined(shares)}"'
        points = " ".join(
            f"{scale.x(t):.1f},{_y(s):.1f}" for t, s in zip(times, shares, strict=True)
        )
        width = 2.6 if policy == DYNAMIC else 1.7
        lines.append(
            f'<polyline data-policy="{escape(policy)}" data-label="{label}" {told} fill="none" '
            f'stroke="{colour}" stroke-width="{width}" points="{points}"/>'
        )
        buttons.append(
            f'<button type="button" aria-pressed="true" data-policy="{escape(policy)}">'
            f'<svg width="18" height="8" aria-hidden="true"><line x1="0" x2="18" y1="4" y2="4" '
            f'stroke="{colour}" stroke-width="3"/></svg> {label}</button>'
        )
    return (
        f'<div class="plot"><div class="legend">{"".join(buttons)}</div><div class="scroll">'
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Distribution of latency, a line a policy">{scale.axes()}{"".join(lines)}'
        f'<line class="cursor" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" visibility="hidden"/></svg>'
        f'</div><p class="told" aria-live="polite">Point at the figure to read values; '
        "press a policy to hide it.</p></div>"
    )


class _Scale:
    """A logarithmic axis of milliseconds."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = log10(low), log10(high)
        self.marks = log_marks(low, high)

    def x(self, ms: float) -> float:
        share = (log10(ms) - self.low) / (self.high - self.low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def axes(self) -> str:
        """Grid lines with their labels."""
        bottom = _HEIGHT - _BOTTOM
        made = [
            f'<line class="grid" x1="{self.x(m):.1f}" x2="{self.x(m):.1f}" y1="{_TOP}" '
            f'y2="{bottom}"/><text x="{self.x(m):.1f}" y="{bottom + 16}" '
            f'text-anchor="middle">{m:g}</text>'
            for m in self.marks
        ]
        made += [
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_y(s):.1f}" '
            f'y2="{_y(s):.1f}"/><text x="{_LEFT - 6}" y="{_y(s) + 4:.1f}" '
            f'text-anchor="end">{s:.0%}</text>'
            for s in _SHARES
        ]
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        made.append(
            f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">'
            "end-to-end latency, ms (share of queries answered within it)</text>"
        )
        return f'<g data-low="{self.low:.4f}" data-high="{self.high:.4f}" class="axes">' + (
            "".join(made) + "</g>"
        )


def _y(share: float) -> float:
    return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)


def steps(values: np.ndarray) -> tuple[list[float], list[float]]:
    """Shares from 0 to 1 and the values within which they lie: a distribution in few points."""
    shares = np.linspace(0, 1, min(_POINTS, len(values)))
    return [float(s) for s in shares], [float(v) for v in np.quantile(values, shares)]


def _joined(values: list[float]) -> str:
    return " ".join(number(v).replace("−", "-") for v in values)
