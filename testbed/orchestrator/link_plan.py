"""From the experiment's links to what the link role is told: trees, and what they need. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.config import Experiment
from testbed.config.link_spec import DirectionSpec, LinkSpec
from testbed.link.netem import Gilbert, Netem
from testbed.link.tree import render_tc, tree_from_json
from testbed.orchestrator.plan import DIRECTIONS
from testbed.traces.trace import Schedule


def side_of(direction: str) -> str:
    """``uplink`` or ``downlink``, of whichever router the direction is."""
    return direction.partition("-")[0]


def netem_of(spec: DirectionSpec) -> Netem:
    """A direction's impairments; raises UserError for what netem does not do."""
    return Netem(
        delay_ns=spec.delay,
        jitter_ns=spec.jitter,
        jitter_correlation=spec.jitter_correlation,
        distribution=spec.distribution,
        loss=spec.loss,
        loss_correlation=spec.loss_correlation,
        gilbert=Gilbert(**spec.gilbert.model_dump()) if spec.gilbert else None,
        duplicate=spec.duplicate,
        reorder=spec.reorder,
        corrupt=spec.corrupt,
        seed=spec.seed,
    )


def needs_netem(experiment: Experiment) -> bool:
    """Whether any link does more than limit the rate."""
    return not all(
        netem_of(getattr(link, side)).is_idle
        for link in experiment.links.values()
        for side in DIRECTIONS
    )


def direction_message(
    link: LinkSpec, side: str, schedule: Schedule, peak_bps: int, interface: str
) -> dict[str, Any]:
    """One direction as the link role takes it; ``peak_bps`` is the highest rate of the campaign."""
    spec: DirectionSpec = getattr(link, side)
    netem = netem_of(spec)
    queue_bytes = spec.queue
    if spec.queue_time is not None:
        queue_bytes = peak_bps * spec.queue_time // (8 * 10**9)
    return {
        "interface": interface,
        "rate_bps": schedule.changes[0][1],
        "queue_bytes": queue_bytes,
        "peak_bps": peak_bps,
        "netem": None if netem.is_idle else netem.to_json(),
        "outage": link.outage,
    }


def peak_bps(experiment: Experiment, schedules: Mapping[str, Schedule], side: str) -> int:
    """The highest rate that a direction of a link is set to, the profile's included."""
    return max(experiment.profile.rate, *(rate for _, rate in schedules[side].changes))


def render_plan(
    experiment: Experiment, schedules: Mapping[str, Mapping[str, Schedule]]
) -> dict[str, dict[str, list[str]]]:
    """Every link's tree in ``tc`` notation, by link and direction; interfaces by their purpose."""
    towards = {"uplink": "TO-SERVER", "downlink": "TO-DEVICE"}

    def rendered(name: str, direction: str) -> list[str]:
        own, side = schedules[name], side_of(direction)
        router = direction.removeprefix(side).removeprefix("-")
        link, peak = experiment.link_at(name, router), peak_bps(experiment, own, direction)
        message = direction_message(link, side, own[direction], peak, towards[side])
        return list(render_tc(tree_from_json(message)))

    return {name: {d: rendered(name, d) for d in schedules[name]} for name in experiment.links}
