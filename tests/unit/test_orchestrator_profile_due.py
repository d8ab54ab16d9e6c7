"""The profile of a campaign is measured again where it was disturbed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testbed.config import load_experiment
from testbed.orchestrator import profile_due
from tests.unit.test_orchestrator_profile import CANDIDATES, record

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.yaml"


def a_session(folder: Path) -> Any:
    return SimpleNamespace(
        folder=folder,
        experiment=load_experiment(QUICKSTART),
        prepared=SimpleNamespace(archive_sha256="0" * 64),
        plan=SimpleNamespace(candidates=CANDIDATES),
        device_roles={"device": "device"},
        directions=["uplink", "downlink"],
    )


@pytest.mark.parametrize(
    ("disturbed", "used"), [([False], 1), ([True, False], 2), ([True, True, False], 2)]
)
def test_a_disturbed_profile_is_measured_again(
    disturbed: list[bool], used: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_due, "profile_key", lambda session: {})
    monkeypatch.setattr(profile_due, "find_profile", lambda key, batch: None)
    heads: list[int] = []

    def run_one(session: Any, planned: Any, conditions: Any) -> dict[str, Any]:
        heads.append(1_000 * (len(heads) + 1))
        folder = tmp_path / planned.run_id
        folder.mkdir()
        lines = (json.dumps(record(split, heads[-1])) for split in CANDIDATES)
        (folder / "queries.jsonl").write_text("\n".join(lines))
        return {"state": "complete", "disturbed": disturbed[len(heads) - 1]}

    found = profile_due.profiles_of_each(a_session(tmp_path), run_one, print)
    _, profile = found["device"]
    assert len(heads) == used
    assert profile["candidates"]["3"]["head_ns"] == 1_000 * used
    assert len(list(tmp_path.glob("attempts/profile.a*"))) == used - 1


def test_an_interrupted_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_due, "profile_key", lambda session: {})
    monkeypatch.setattr(profile_due, "find_profile", lambda key, batch: None)
    begun: list[Any] = []

    def run_one(session: Any, planned: Any, conditions: Any) -> dict[str, Any]:
        begun.append(planned)
        return {"state": "interrupted", "disturbed": True}

    with pytest.raises(KeyboardInterrupt):
        profile_due.profiles_of_each(a_session(tmp_path), run_one, print)
    assert len(begun) == 1
