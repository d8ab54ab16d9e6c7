"""Every link of an experiment set up in turn, and measured, before anything goes by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from testbed.hosts.connection import each
from testbed.orchestrator.link_plan import side_of
from testbed.orchestrator.plan import schedule_json
from testbed.orchestrator.session import SETUP_TIMEOUT_S, Session
from testbed.orchestrator.verify_link import LinkCheck, alike, asked_of
from testbed.traces.trace import Schedule


def prove_link(session: Session) -> dict[str, LinkCheck]:
    """Measure whether every shaped link does what the experiment asks; the outcomes, by router."""
    for role, check in session.link_checks.items():
        # Without a router, both ends' roles are one link.
        roles = [role] if role in session.link_roles else list(session.link_roles)
        for names in alike(session.experiment):
            asked = asked_of(session.as_set(role), session.plan.schedules, names)
            set_rates = partial(_set_rates, session, roles, names[0])
            check.shaped(", ".join(names), asked, set_rates)
    return session.link_checks


def document_of(session: Session) -> dict[str, Any]:
    """``link_verification.json``: one link's check, or those of several by router."""
    checks = session.link_checks
    if len(checks) == 1:  # without a router no host has its name
        return next(iter(checks.values())).document
    documents = {session.host_of(role): check.document for role, check in checks.items()}
    return {"routers": documents, "faults": session.link_faults}


def _set_rates(session: Session, roles: Sequence[str], link: str, rates: Mapping[str, int]) -> None:
    """Both directions to constant rates in bit/s, all else as one of the links has it."""

    def start(name: str) -> None:
        wanted = {
            side: schedule_json(Schedule.constant(rates[side_of(side)], end="hold"))
            for side in session.link_roles[name]
        }
        directions = session.link_directions(name, link)
        message = {"run_id": "verify", "schedules": wanted, "directions": directions}
        session.roles[name].request(
            {"type": "start", **message}, "started", timeout_s=SETUP_TIMEOUT_S
        )

    each("set the link's rates", {name: partial(start, name) for name in roles})
