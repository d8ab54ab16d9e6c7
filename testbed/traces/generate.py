"""Seeded synthetic bandwidth traces: the same call gives the same trace."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from testbed.errors import UserError
from testbed.traces.trace import MOST_STEPS, SECOND_NS, BandwidthTrace

# A generator gives one level a step: 0 is the least rate, 1 the greatest, logarithmic between.
Generator = Callable[[random.Random, int, float], list[float]]


def generate(
    kind: str,
    *,
    duration_ns: int,
    seed: int,
    min_bps: int,
    max_bps: int,
    down_min_bps: int | None = None,
    down_max_bps: int | None = None,
    step_ns: int = SECOND_NS // 10,
) -> BandwidthTrace:
    """A trace of both directions; the downlink has a random stream and bounds of its own.

    ``kind`` is one of :data:`KINDS`; the downlink's bounds are the uplink's by default.

    Raises UserError for an unknown kind or bounds that no trace fits.
    """
    down_min_bps = min_bps if down_min_bps is None else down_min_bps
    down_max_bps = max_bps if down_max_bps is None else down_max_bps
    generator = KINDS.get(kind)
    if generator is None:
        raise UserError(f"trace kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    if duration_ns <= 0 or step_ns <= 0:
        raise UserError(f"trace {kind}: expected a duration and a step of more than 0")
    if duration_ns > step_ns * MOST_STEPS:
        raise UserError(
            f"trace {kind}: expected at most {MOST_STEPS} steps, got {duration_ns / 1e9:g} s in "
            f"steps of {step_ns / 1e9:g} s"
        )
    count = -(-duration_ns // step_ns)
    directions = []
    for side, low, high in (("up", min_bps, max_bps), ("down", down_min_bps, down_max_bps)):
        if not 0 < low <= high:
            raise UserError(f"trace {kind}: {side}: expected 0 < min <= max, got {low} and {high}")
        levels = generator(random.Random(f"{seed} {side}"), count, step_ns / SECOND_NS)
        directions.append([_rate(level, low, high) for level in levels])
    kept = [i for i in range(count) if i == 0 or any(d[i] != d[i - 1] for d in directions)]
    up, down = (tuple(d[i] for i in kept) for d in directions)
    source = (
        f'generate("{kind}", duration_ns={duration_ns}, seed={seed}, min_bps={min_bps}, '
        f"max_bps={max_bps}, down_min_bps={down_min_bps}, down_max_bps={down_max_bps}, "
        f"step_ns={step_ns})"
    )
    return BandwidthTrace(tuple(i * step_ns for i in kept), up, down, duration_ns, source)


def _rate(level: float, low_bps: int, high_bps: int) -> int:
    # Whole kbit/s, so that the last bits of a machine's pow() do not show in the trace.
    rate_bps = low_bps * math.pow(high_bps / low_bps, min(1.0, max(0.0, level)))
    return min(high_bps, max(low_bps, round(rate_bps / 1000) * 1000))


def _reflect(level: float) -> float:
    """Fold a level back into [0, 1], as a ball between two walls."""
    return 1 - abs(1 - level % 2)


def _constant(rng: random.Random, count: int, step_s: float) -> list[float]:
    """The greatest rate, all the time."""
    return [1.0] * count


def _steps(rng: random.Random, count: int, step_s: float) -> list[float]:
    """Levels drawn at random, each held for 0.5 to 3 s."""
    levels: list[float] = []
    while len(levels) < count:
        levels += [rng.random()] * max(1, round(rng.uniform(0.5, 3) / step_s))
    return levels[:count]


def _random_walk(rng: random.Random, count: int, step_s: float) -> list[float]:
    """A Gaussian walk that reflects at both ends: about 0.2 of the range in a second."""
    level = rng.random()
    return [level := _reflect(level + rng.gauss(0, 0.2 * math.sqrt(step_s))) for _ in range(count)]


def _markov(rng: random.Random, count: int, step_s: float) -> list[float]:
    """On (greatest rate, 3 s on average) and off (least rate, 1 s on average)."""
    on = rng.random() < 0.75
    levels: list[float] = []
    for _ in range(count):
        levels.append(1.0 if on else 0.0)
        on ^= rng.random() < -math.expm1(-step_s / (3 if on else 1))
    return levels


def _lte(rng: random.Random, count: int, step_s: float) -> list[float]:
    """A slow walk (place, cell), AR(1) fading around it, now and then a deep fade.

    Log-normal fading that decorrelates in about 0.5 s, and a fade of 0.3 to 1.5 s every 10 s on
    average, down by half of the range: the shape of driving traces, not a model of a radio.
    """
    walk, fading, fade_left = rng.uniform(0.5, 0.8), 0.0, 0
    keep = math.exp(-step_s / 0.5)
    levels: list[float] = []
    for _ in range(count):
        walk = _reflect(walk + rng.gauss(0, 0.06 * math.sqrt(step_s)))
        fading = keep * fading + rng.gauss(0, 0.12 * math.sqrt(1 - keep * keep))
        if fade_left == 0 and rng.random() < -math.expm1(-step_s / 10):
            fade_left = max(1, round(rng.uniform(0.3, 1.5) / step_s))
        levels.append(walk + fading - (0.5 if fade_left else 0))
        fade_left = max(0, fade_left - 1)
    return levels


def _sweep(rng: random.Random, count: int, step_s: float) -> list[float]:
    """First half: smoothly down and up again; second half: every level again, in shuffled steps.

    Levels are even on the logarithmic scale, so that every octave gets the same time; the steps
    last 2 s. It begins at the top: what a run does before it measures is then soon done.
    """
    smooth = count // 2
    sweep = [abs(1 - 2 * (i + 0.5) / smooth) for i in range(smooth)]
    hold = max(1, round(2 / step_s))
    stairs = -(-(count - smooth) // hold)
    levels = [(i + 0.5) / stairs for i in range(stairs)]
    rng.shuffle(levels)
    held = [level for level in levels for _ in range(hold)][: count - smooth]
    return sweep + held


KINDS: dict[str, Generator] = {
    "constant": _constant,
    "steps": _steps,
    "random_walk": _random_walk,
    "markov": _markov,
    "lte": _lte,
    "sweep": _sweep,
}
