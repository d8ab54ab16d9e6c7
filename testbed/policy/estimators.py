"""Rate and server load, estimated only from what this run's own transfers and replies showed."""

from __future__ import annotations

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


class ReplyEstimator:
    """A figure of the server's replies that is known for an idle server: slowdown, or queue.

    The median of up to ``samples`` replies of the last two seconds. Without replies it holds for
    one second and then halves its distance to the idle figure every two: a policy that avoids a
    loaded server hears no more of it, and must try again some time.

    A slowdown takes three replies, because a tail's time is noisy. A queue takes two: it is told
    without noise, and a policy that stays local hears of it only from probes, one in some 300 ms.
    Simulated with 0, 4, 0, 8 clients for 3 s each, latency above the best choice's: three replies
    8.8 %, two 4.5 %, one 3.7 %; one reply of a bursty queue would be believed too easily.
    """

    WINDOW_NS = 2_000 * _MS_NS
    HOLD_NS = 1_000 * _MS_NS
    HALVING_NS = 2_000 * _MS_NS

    def __init__(self, idle: float, samples: int = 3) -> None:
        self._idle = idle
        self._most_samples = samples
        self._samples: list[tuple[int, float]] = []
        self._median = self._most = idle

    def add(self, now_ns: int, value: float) -> None:
        """Take the figure of one reply."""
        recent = [s for s in self._samples if now_ns - s[0] <= self.WINDOW_NS]
        self._samples = [*recent, (now_ns, value)][-self._most_samples :]
        values = [value for _, value in self._samples]
        self._median, self._most = median(values), max(values)

    def value(self, now_ns: int) -> float:
        """The figure now; the idle one before the first reply."""
        return self._faded(now_ns, self._median)

    def high(self, now_ns: int) -> float:
        """The greatest of the same replies."""
        return self._faded(now_ns, self._most)

    def _faded(self, now_ns: int, value: float) -> float:
        if not self._samples:
            return self._idle
        stale_ns = max(0, now_ns - self._samples[-1][0] - self.HOLD_NS)
        if stale_ns == 0:
            return value
        return float(self._idle + (value - self._idle) * 0.5 ** (stale_ns / self.HALVING_NS))


class HeadEstimator:
    """How many times longer one split's head takes in this run than in its profile.

    A head that is run again and again finds warm caches, and a limited processor's short work
    escapes its limit: a profile, made in turns, cannot know how often a policy will repeat. But
    single heads are noisy (44 to 99 ms in one run), and whichever split was unlucky last would be
    left for one that was not measured. So the mean of up to twelve of the last ten seconds, with
    the profile's own time counted as two more. Simulated with profiles 12 % off, latency above
    the best choice's on the quickstart's trace: 2.5 %, the median of three 3.1 %, the profile
    alone 3.1 %; on an LTE-like link with a loaded server 3.6 %, the median of three 4.6 %.
    """

    WINDOW_NS = 10_000 * _MS_NS
    PROFILE_WEIGHT = 2

    def __init__(self) -> None:
        self._ratios: deque[tuple[int, float]] = deque(maxlen=12)

    def add(self, now_ns: int, ratio: float) -> float:
        """Take one head's time ÷ its profiled time; the mean from now on, for ``WINDOW_NS``."""
        self._ratios.append((now_ns, ratio))
        fresh = [ratio for t_ns, ratio in self._ratios if now_ns - t_ns <= self.WINDOW_NS]
        return (sum(fresh) + self.PROFILE_WEIGHT) / (len(fresh) + self.PROFILE_WEIGHT)
