"""A policy of one's own: take what was fastest lately, and look around now and then.

Write ``policies: ["python:experiments.my_policy:Fastest", …]`` in the experiment. The file travels
to the device as it is; it may import the standard library and ``testbed.policy``.
"""

import random

from testbed.policy.protocol import Outcome, State


class Fastest:
    """Two methods are all that a policy needs."""

    def __init__(self) -> None:
        self.rng = random.Random(1)
        self.lately: dict[str, float] = {}  # split → latency, the older the fainter

    def decide(self, state: State) -> str:
        """The split for the query that begins now: the name of one of ``state.candidates``.

        ``testbed/policy/protocol.py`` says all that ``state`` tells: profiled times, the estimates
        of rate, load and queue, and how fresh they are.
        """
        names = [candidate.split for candidate in state.candidates]
        unknown = [name for name in names if name not in self.lately]
        if unknown or self.rng.random() < 0.05:
            return self.rng.choice(unknown or names)
        return min(names, key=lambda name: self.lately[name])

    def observe(self, outcome: Outcome) -> None:
        """How it went; probes have no split."""
        if outcome.split:
            before = self.lately.get(outcome.split, outcome.e2e_ns)
            self.lately[outcome.split] = 0.6 * outcome.e2e_ns + 0.4 * before
