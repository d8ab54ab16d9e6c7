"""What the report says of the traces that the links followed."""

from __future__ import annotations

import json

from analysis import metrics
from analysis.dataset import load_dataset
from analysis.replay import with_floor
from analysis.trust import doubts
from tests.analysis.synthetic import Maker


def _notes(root) -> list[str]:
    data = load_dataset(root)
    queries = with_floor(data)
    transfers = metrics.transfers(queries, data.base_network_ns).assign(link="wander")
    return [doubt.text for doubt in doubts(data, queries, transfers) if not doubt.grave]


def test_an_uplink_from_a_downlink_trace_is_told_once(make_campaign: Maker) -> None:
    root = make_campaign(policies=("local", "offload"), duration_s=2)
    assert not any("directions differ" in note for note in _notes(root))
    plans = sorted(root.glob("*/plan.json"))
    for path in plans:
        plan = json.loads(path.read_text())
        plan["schedules"]["uplink"]["as"] = "uplink from a downlink trace"
        path.write_text(json.dumps(plan))
    told = [note for note in _notes(root) if "directions differ" in note]
    assert len(plans) > 1
    assert told == [
        "Link wander: uplink from a downlink trace, though a network's two directions differ."
    ]
