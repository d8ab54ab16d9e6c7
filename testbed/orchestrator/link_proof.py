"""Every link of an experiment set up in turn, and measured, before anything goes by it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from testbed.hosts.connection import each
from testbed.orchestrator.plan import schedule_json
from testbed.orchestrator.session import SETUP_TIMEOUT_S, Session
from testbed.orchestrator.verify_link import LinkCheck, alike, asked_of
from testbed.traces.trace import Schedule


def prove_link(session: Session) -> LinkCheck:
    """Measure whether the shaped link does what the experiment asks; the outcome."""
    assert session.link_check is not None, "open"
    for names in alike(session.experiment):
        asked = asked_of(session.as_set, session.plan.schedules, names)
        session.link_check.shaped(", ".join(names), asked, partial(_set_rates, session, names[0]))
    return session.link_check


def _set_rates(session: Session, link: str, rates: Mapping[str, int]) -> None:
    """Both directions to constant rates in bit/s, all else as one of the links has it."""

    def start(name: str) -> None:
        wanted = {
            side: schedule_json(Schedule.constant(rates[side], end="hold"))
            for side in session.link_roles[name]
        }
        directions = session.link_directions(name, link)
        message = {"run_id": "verify", "schedules": wanted, "directions": directions}
        session.roles[name].request(
            {"type": "start", **message}, "started", timeout_s=SETUP_TIMEOUT_S
        )

    each("set the link's rates", {name: partial(start, name) for name in session.link_roles})
