"""A user's own policy: found at plan time, carried as source, run under guard on the device."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from testbed.errors import UserError
from testbed.model.table import LOCAL
from testbed.policy.latency import Candidate
from testbed.policy.protocol import Outcome, Policy, State

PREFIX = "python:"


@dataclass(frozen=True)
class Source:
    """One file of Python with the class in it, as ``start`` carries it."""

    name: str
    text: str
    sha256: str

    def to_message(self) -> dict[str, str]:
        """The field ``source`` of the policy in ``start``."""
        return asdict(self)


def find_source(name: str) -> Source:
    """The file of ``python:my_pkg.policies:Mine``, from the working folder or Python's path.

    The file travels alone: it may import the standard library and ``testbed.policy``. Raises
    UserError where it is not found.
    """
    module, _, attribute = name.removeprefix(PREFIX).partition(":")
    if not module or not attribute.isidentifier():
        raise UserError(f"policy {name}: expected python:<module>:<class>")
    inside = Path(*module.split(".")).with_suffix(".py")
    for folder in (Path.cwd(), *map(Path, sys.path)):
        if (folder / inside).is_file():
            text = (folder / inside).read_text()
            return Source(name, text, hashlib.sha256(text.encode()).hexdigest())
    raise UserError(
        f"policy {name}: no file {inside} in the working folder or on Python's path; "
        "run from the folder that holds it, or set PYTHONPATH"
    )


def load(source: Source, splits: Sequence[str]) -> Guarded:
    """The policy of a source, made and under guard.

    Raises UserError when the source is not the one that was hashed, does not run, or lacks the
    class or one of its two methods.
    """
    if hashlib.sha256(source.text.encode()).hexdigest() != source.sha256:
        raise UserError(f"policy {source.name}: the source arrived altered; send it again")
    module_name, _, attribute = source.name.removeprefix(PREFIX).partition(":")
    module = ModuleType(f"user_policy.{module_name}")
    # Dataclasses look their module up by name.
    sys.modules[module.__name__] = module
    try:
        exec(compile(source.text, f"<{module_name}>", "exec"), module.__dict__)
        made = getattr(module, attribute)()
    except Exception as error:  # whatever a stranger's file does is told in one line
        raise UserError(
            f"policy {source.name}: cannot be made: {type(error).__name__}: {error}"
        ) from error
    for method in ("decide", "observe"):
        if not callable(getattr(made, method, None)):
            raise UserError(f"policy {source.name}: has no method {method}; see the README")
    return Guarded(made, splits)


def check(source: Source, splits: Sequence[str]) -> None:
    """Try a policy before anything is started; raises UserError for what it does wrong.

    It is asked once without and once with a rate, and told one outcome; the times are made up.
    """
    guarded = load(source, splits)
    candidates = tuple(
        Candidate(split, 10**6 * i, 10**4, 10**4, 10**7, 0 if split == LOCAL else 50_000, 4_000)
        for i, split in enumerate(splits)
    )
    blind = State(0, candidates, None, None, 1.0, 10**6)
    seeing = State(10**9, candidates, 1e7, 10**6, 1.0, 10**6, rate_low_bps=8e6, confidence=0.9)
    for state in (blind, seeing):
        split = guarded.decide(state)
        outcome = Outcome(
            state.now_ns, split, 10**8, 10**7, 10**7, 10**7, 50_000, 10**7, "ok", "measured"
        )
        guarded.observe(outcome)
    if guarded.fault:
        raise UserError(f"policy {source.name}: {guarded.fault}")


class Guarded(Policy):
    """Runs a user's policy; what it does wrong falls back to ``local`` and is told once."""

    uses_rate = True

    def __init__(self, inner: Any, splits: Sequence[str]) -> None:
        self._inner = inner
        self._splits = frozenset(splits)

    def decide(self, state: State) -> str:
        """Its choice where that is a candidate, else ``local``."""
        try:
            split = self._inner.decide(state)
        except Exception as error:  # a stranger's fault must not end the run
            return self._local(f"decide: {type(error).__name__}: {error}")
        if not isinstance(split, str) or split not in self._splits:
            return self._local(f"decide: expected a candidate's name, got {split!r}")
        return split

    def observe(self, outcome: Outcome) -> None:
        """Pass the outcome on."""
        try:
            self._inner.observe(outcome)
        except Exception as error:  # as above
            self._local(f"observe: {type(error).__name__}: {error}")

    def _local(self, fault: str) -> str:
        self.fault = self.fault or fault
        return LOCAL
