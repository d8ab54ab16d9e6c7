"""Rate and server load, estimated only from what this run's own transfers and replies showed."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import deque
from statistics import median, median_high

from testbed.framing import MTU_BYTES

_MS_NS = 10**6


class RateEstimator:
    """The uplink's rate in IP bit/s, from the receiver's spans.

    A late timer or a stolen time slice shifts one end of a span by milliseconds, whatever its
    length. So a span of 40 ms or more is believed at once, and a shorter one only by the median
    with up to two others of the last 200 ms (the higher of two: spans are lengthened more often
    than shortened). Nothing older counts: the link has moved on, and lag costs more than noise.

    Simulated as a closed loop (queries of 15–160 ms on four kinds of trace in 100 ms steps,
    0.3 ms of jitter at each end, one span in seven off by 5 ms, 24 runs each), latency above the
    clairvoyant policy's: this filter 4.3 %, the last sample 4.8 %, a log-EWMA 4.7–5.1 %, the
    median of three without an age 8.6 %.
    """

    # Fewer full packets than this are mostly burst and timer, so they are no estimate.
    MIN_SPAN_BYTES = 8 * MTU_BYTES
    LONG_SPAN_NS = 40 * _MS_NS
    WINDOW_NS = 200 * _MS_NS
    WINDOW_SAMPLES = 3
    HISTORY_NS = 2_000 * _MS_NS
    LOW_SHARE = 0.2

    def __init__(self) -> None:
        self._samples: list[tuple[int, int]] = []  # (time, rate)
        self._history: deque[tuple[int, int]] = deque(maxlen=16)
        self.rate_bps: int | None = None

    def add(self, now_ns: int, span_bytes: int, span_ns: int) -> None:
        """Take ``span_bytes`` IP bytes that arrived over ``span_ns``; too few change nothing."""
        if span_bytes < self.MIN_SPAN_BYTES or span_ns <= 0:
            return
        sample = (now_ns, max(1, round(span_bytes * 8e9 / span_ns)))
        self._history.append(sample)
        if span_ns >= self.LONG_SPAN_NS:
            self._samples = []
        recent = [s for s in self._samples if now_ns - s[0] <= self.WINDOW_NS]
        self._samples = [*recent[1 - self.WINDOW_SAMPLES :], sample]
        self.rate_bps = median_high(rate for _, rate in self._samples)

    def age_ns(self, now_ns: int) -> int | None:
        """Time since the newest sample, or None before the first."""
        return now_ns - self._samples[-1][0] if self._samples else None

    def low_bps(self, now_ns: int) -> int | None:
        """What the rate may well have fallen to: the least of the estimate and of the recent.

        The recent ones are the lower fifth of the spans of the last two seconds.
        """
        if self.rate_bps is None:
            return None
        rates = sorted(self._recent_bps(now_ns))
        return min(self.rate_bps, rates[int(self.LOW_SHARE * len(rates))]) if rates else None

    def confidence(self, now_ns: int) -> float:
        """``n/(n + 1)`` for the spans of the last two seconds, halved each second of age."""
        n, age_ns = len(self._recent_bps(now_ns)), self.age_ns(now_ns)
        return 0.0 if age_ns is None else n / (n + 1) * 0.5 ** (age_ns / (1_000 * _MS_NS))

    def _recent_bps(self, now_ns: int) -> list[int]:
        # The newest always counts: without it nothing is known at all.
        last = len(self._history) - 1
        return [
            rate_bps
            for index, (t_ns, rate_bps) in enumerate(self._history)
            if index == last or now_ns - t_ns <= self.HISTORY_NS
        ]


class ReplyEstimator(ABC):
    """A figure of the server's replies that is known for an idle server.

    Without replies it holds for one second and then halves its distance to the idle figure every
    two: a policy that avoids a loaded server hears no more of it, and must try again some time.
    """

    WINDOW_NS = 2_000 * _MS_NS
    HOLD_NS = 1_000 * _MS_NS
    HALVING_NS = 2_000 * _MS_NS

    def __init__(self, idle: float, most_samples: int) -> None:
        self._idle = self._figure = self._most = idle
        self._samples: deque[tuple[int, float]] = deque(maxlen=most_samples)

    def add(self, now_ns: int, value: float) -> None:
        """Take the figure of one reply."""
        self._samples.append((now_ns, value))
        while now_ns - self._samples[0][0] > self.WINDOW_NS:
            self._samples.popleft()
        self._figure, self._most = self._tell([value for _, value in self._samples])

    @abstractmethod
    def _tell(self, values: list[float]) -> tuple[float, float]:
        """The figure and its pessimistic side, from the fresh replies, the newest last."""

    def value(self, now_ns: int) -> float:
        """The figure now; the idle one before the first reply."""
        return self._faded(now_ns, self._figure)

    def high(self, now_ns: int) -> float:
        """The pessimistic side of it."""
        return self._faded(now_ns, self._most)

    def _faded(self, now_ns: int, value: float) -> float:
        if not self._samples:
            return self._idle
        stale_ns = max(0, now_ns - self._samples[-1][0] - self.HOLD_NS)
        if stale_ns == 0:
            return value
        return float(self._idle + (value - self._idle) * 0.5 ** (stale_ns / self.HALVING_NS))


class LoadEstimator(ReplyEstimator):
    """The server's slowdown: the median of three replies of two seconds, as a tail is noisy."""

    def __init__(self) -> None:
        super().__init__(1.0, 3)

    def _tell(self, values: list[float]) -> tuple[float, float]:
        return median(values), max(values)


class QueueEstimator(ReplyEstimator):
    """The wait in the server's queue: half of the newest reply, half of eight's mean.

    A queue is told without noise, and where clients fill it the newest reply is right at once, of
    which a policy that stays local hears only from probes, one in some 300 ms. Where requests come
    by chance, the next wait is nearer the mean than the last one. Simulated (runs of 12 s on three
    links), mean latency against that by the mean of the newest two replies: 0.7 % less with 0, 4,
    0, 8 clients for 3 s each (n = 40), 0.3 to 2.4 % less with Poisson load of 0, 0.4 and 0.8 (n =
    20). A mean of more replies answers a client's coming and going too late.
    """

    WINDOW_NS = 5_000 * _MS_NS
    SAMPLES = 8

    def __init__(self) -> None:
        super().__init__(0.0, self.SAMPLES)

    def _tell(self, values: list[float]) -> tuple[float, float]:
        return (values[-1] + sum(values) / len(values)) / 2, max(values[-2:])


class HeadEstimator:
    """How many times longer heads take in this run than in their profile: the device's, each one's.

    A profile is of the minute in which it was taken, and a device may be a third slower or faster
    for minutes on end (measured: 88 to 102 ms a head after 61 to 79). So what the splits that this
    run uses show together, ``slowdown``, is taken for the others too. But a profile is off for
    single splits as well, and one split's error is not the device's: each split counts once,
    however often it ran, and the profile as one more.

    A head that is run again and again finds warm caches, and a limited processor's short work
    escapes its limit: a profile, made in turns, cannot know how often a policy will repeat. That is
    left to ``own``, for each split that ran, relative to the slowdown. But single heads are noisy
    (44 to 99 ms in one run), and whichever split was unlucky last would be left for one that was
    not measured. So it is the mean of up to twelve of the last ten seconds, with the slowdown
    itself counted as two more.
    """

    WINDOW_NS = 10_000 * _MS_NS
    WEIGHT = 2  # of what is expected, in heads
    PROFILE_WEIGHT = 1  # of the profile, in splits

    def __init__(self) -> None:
        self._ratios: dict[str, deque[tuple[int, float]]] = {}
        self._fresh: dict[str, tuple[int, float]] = {}  # how many ratios, and their sum
        self._until_ns: dict[str, int] = {}
        self.own: dict[str, float] = {}
        self.slowdown = 1.0
        self.stale_ns = sys.maxsize

    def add(self, now_ns: int, split: str, ratio: float) -> None:
        """Take one head's time ÷ its profiled time."""
        ratios = self._ratios.setdefault(split, deque(maxlen=12))
        ratios.append((now_ns, ratio))
        fresh = [ratio for t_ns, ratio in ratios if now_ns - t_ns <= self.WINDOW_NS]
        self._fresh[split] = len(fresh), sum(fresh)
        self._until_ns[split] = now_ns + self.WINDOW_NS
        self.forget(now_ns)

    def forget(self, now_ns: int) -> None:
        """Leave out the splits that did not run in the last ten seconds."""
        for split in [s for s, until_ns in self._until_ns.items() if now_ns > until_ns]:
            del self._until_ns[split], self._fresh[split]
        self.stale_ns = min(self._until_ns.values(), default=sys.maxsize)
        weights = {s: 1 / (count + self.WEIGHT) for s, (count, _) in self._fresh.items()}
        shown = sum(weights[split] * total for split, (_, total) in self._fresh.items())
        counted = sum(weights[split] * count for split, (count, _) in self._fresh.items())
        self.slowdown = (shown + self.PROFILE_WEIGHT) / (counted + self.PROFILE_WEIGHT)
        self.own = {
            split: weights[split] * (total / self.slowdown + self.WEIGHT)
            for split, (_, total) in self._fresh.items()
        }
