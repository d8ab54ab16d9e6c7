"""From a file of others to an experiment: sidecar, resampling, the verbs, the link's direction."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from testbed.cli import main
from testbed.config import load_experiment
from testbed.errors import UserError
from testbed.orchestrator.plan import make_schedules, schedule_json
from testbed.traces.canonical import save_imported, sidecar_path
from testbed.traces.formats import load_trace
from testbed.traces.importers import import_trace
from testbed.traces.importers.source import Request
from testbed.traces.trace import BandwidthTrace

S, MS, MBIT = 10**9, 10**6, 10**6
COOKED = "0\t0\n1\t4\n1.5\t1\n2\t0\n4\t2\n"  # 4 Mbit/s for 1 s, 1 for 0.5, 0 for 0.5, 2 for 2


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "drive"
    path.write_text(COOKED)
    return path


def test_sidecar_tells_origin_and_treatment(tmp_path, original) -> None:
    found = import_trace(original, Request(direction="down"))
    out = tmp_path / "drive.csv"
    save_imported(found.trace, found.sidecar, out)
    assert load_trace(out) == found.trace
    told = json.loads(sidecar_path(out).read_text())
    assert told == found.sidecar
    assert told["original"] == {
        "name": "drive",
        "sha256": hashlib.sha256(COOKED.encode()).hexdigest(),
    }
    assert (told["format"], told["directions"], told["skipped_lines"]) == ("cooked", ["down"], 0)
    assert (told["resampling"], told["floor"]) == (None, None)
    assert {"schema_version", "source", "licence", "importer_version", "method"} <= set(told)


def test_resampling_conserves_bytes_and_floor_is_told(original) -> None:
    found = import_trace(original, Request(direction="down", step_ns=S, floor_bps=MBIT // 2 + 1))
    assert found.trace.t_ns == (0, S, 2 * S, 3 * S)
    assert found.trace.down_bps == (4 * MBIT, MBIT // 2 + 1, 2 * MBIT, 2 * MBIT)
    assert found.sidecar["resampling"]["step_ns"] == S
    assert found.sidecar["floor"] == {"bps": MBIT // 2 + 1, "raised_ns": {"down": S}}
    plain = import_trace(original, Request(direction="down", step_ns=700 * MS)).trace
    bits_ns = sum(rate * (end - start) for start, end, rate in plain.spans("down"))
    assert abs(bits_ns - 17 * MBIT // 2 * S) <= plain.duration_ns / 2


def test_the_testbeds_own_csv_is_shown_and_resampled_too(tmp_path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("# source: a walk\nt_s,up_bps,down_bps\n0,100,7\n1,300,7\n2,,\n")
    found = import_trace(path, Request(step_ns=2 * S))
    assert found.trace == BandwidthTrace((0,), (200,), (7,), 2 * S, "a walk")


def test_a_trace_converted_again_keeps_its_origin(tmp_path, original) -> None:
    first = import_trace(original, Request(direction="down"))
    out = tmp_path / "drive.csv"
    save_imported(first.trace, first.sidecar, out)
    again = import_trace(out, Request(step_ns=S))
    assert again.sidecar["format"] == "testbed"
    assert again.sidecar["earlier"] == first.sidecar
    sidecar_path(out).write_text("{")
    with pytest.raises(UserError, match=r"drive\.csv\.json: expected the JSON"):
        import_trace(out, Request())


def run(*argv: object) -> int:
    return main(["trace", *map(str, argv)])


def test_convert_writes_trace_and_sidecar(tmp_path, original, capsys) -> None:
    out = tmp_path / "out.csv"
    assert run("convert", original, out, "--direction", "down", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["written"] == str(out)
    assert document["mean_bps"] == {"down": 2_125_000}
    assert load_trace(out).down_bps == (4 * MBIT, MBIT, 0, 2 * MBIT)
    assert run("show", out) == 0
    assert "mean 2.12 Mbit/s" in capsys.readouterr().out


def test_convert_refuses_and_leaves_nothing(tmp_path, original, capsys) -> None:
    original.write_text(COOKED + "5 many\n")
    out = tmp_path / "out.csv"
    assert run("convert", original, out, "--direction", "down", "--format", "cooked") == 2
    assert f"{original}:6: expected a rate in Mbit/s, got 'many'" in capsys.readouterr().err
    assert not out.exists()
    assert not sidecar_path(out).exists()
    assert (
        run("convert", original, out, "--direction", "down", "--format", "cooked", "--skip-bad")
        == 0
    )
    assert "1 malformed left out" in capsys.readouterr().out
    assert run("convert", out, out) == 2
    assert "another name" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--select", "run"], ["--step", "0s"], ["--gaps", "guess"]])
def test_options_are_checked(original, capsys, option) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("show", original, *option)
    assert "expected" in capsys.readouterr().err.replace("invalid choice", "expected")


@pytest.mark.parametrize(
    ("ending", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")]
)
def test_show_draws_the_same_bytes_each_time(tmp_path, original, capsys, ending, magic) -> None:
    made = []
    for name in ("one", "two"):
        picture = tmp_path / f"{name}.{ending}"
        assert run("show", original, "--direction", "down", "--plot", picture) == 0
        made.append(picture.read_bytes())
    assert made[0] == made[1]
    assert made[0].startswith(magic)


def test_drawn_means_are_those_of_the_trace() -> None:
    from analysis.figures.trace import draw_trace

    steps = 5_000
    rates = tuple((i % 7) * MBIT if i < 4_000 else 0 for i in range(steps))
    trace = BandwidthTrace(tuple(i * 10 * MS for i in range(steps)), rates, None, 50 * S, "long")
    axes = draw_trace(trace).axes[0]
    drawn = axes.patches[0].get_data()
    assert len(drawn.values) == 2_000
    widths = drawn.edges[1:] - drawn.edges[:-1]
    assert sum(drawn.values * widths) == pytest.approx(sum(rates) * 0.01 / 1e6)
    dead = axes.collections[0].get_paths()
    assert sum(path.get_extents().width for path in dead) == pytest.approx(10)


def outages(rates: tuple[int, ...], **given: int) -> list[tuple[int, int]]:
    t_ns = tuple(i * 50 * MS for i in range(len(rates)))
    trace = BandwidthTrace(t_ns, rates, None, given.get("end", len(rates) * 50) * MS, "test")
    schedule = trace.schedule("up", 100 * MS, outage=True)
    assert schedule.floored_ns == sum(
        100 * MS
        for i, mean in enumerate(trace.means("up", 100 * MS))
        if 0 < mean < schedule.floor_bps
    )
    return [(start // MS, length // MS) for start, length in schedule.outages]


def test_outages_are_whole_steps_without_capacity() -> None:
    assert outages((9 * MBIT, 0, 0, 0, 0, 0, 0, 9 * MBIT)) == [(100, 200)]
    assert outages((0, 0, 9 * MBIT, 9 * MBIT, 0, 0)) == [(0, 100), (200, 100)]
    assert outages((9 * MBIT, 0, 0, 9 * MBIT)) == []


def test_a_short_last_step_belongs_to_an_outage_but_makes_none() -> None:
    assert outages((9 * MBIT, 9 * MBIT, 0, 0, 0)) == [(100, 150)]
    trace = BandwidthTrace((0, 100 * MS), (9 * MBIT, 0), None, 150 * MS, "test")
    schedule = trace.schedule("up", 100 * MS, outage=True)
    assert (schedule.outages, schedule.floored_ns) == ((), 50 * MS)


def test_without_outage_zero_capacity_is_floored() -> None:
    trace = BandwidthTrace((0, 100 * MS), (9 * MBIT, 0), None, 300 * MS, "test")
    schedule = trace.schedule("up", 100 * MS)
    assert (schedule.outages, schedule.floored_ns) == ((), 200 * MS)


def experiment(folder: Path, uplink: dict, downlink: dict | None = None) -> Path:
    (folder / "down.csv").write_text("t_s,down_bps\n0,1000000\n10,\n")
    (folder / "both.csv").write_text("t_s,up_bps,down_bps\n0,2000000,3000000\n10,,\n")
    path = folder / "experiment.yaml"
    document = {
        "schema_version": 1,
        "name": "tiny",
        "model": {"name": "resnet18"},
        "links": {"cell": {"uplink": uplink, "downlink": downlink or {"rate": "20mbit"}}},
        "policies": ["local"],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def scheduled(path: Path) -> dict[str, dict]:
    found = load_experiment(path)
    link = found.links["cell"]
    traces = {str(s.trace): load_trace(s.trace) for s in (link.uplink, link.downlink) if s.trace}
    return {side: schedule_json(s) for side, s in make_schedules(found, traces)["cell"].items()}


def test_a_downlink_trace_is_an_uplink_only_if_it_is_said(tmp_path) -> None:
    with pytest.raises(
        UserError, match=r"no direction 'up'; it has down: .*'direction: as-uplink'"
    ):
        scheduled(experiment(tmp_path, {"trace": "down.csv"}))
    found = scheduled(experiment(tmp_path, {"trace": "down.csv", "direction": "as-uplink"}))
    assert found["uplink"]["as"] == "uplink from a downlink trace"
    assert found["uplink"]["changes"] == [[0, MBIT]]
    assert found["downlink"]["as"] is None
    resolved = load_experiment(tmp_path / "experiment.yaml").model_dump(mode="json")
    assert resolved["links"]["cell"]["uplink"]["direction"] == "as-uplink"


def test_each_side_takes_its_own_direction_unless_told(tmp_path) -> None:
    both = {"trace": "both.csv"}
    found = scheduled(experiment(tmp_path, both, {**both, "direction": "as-downlink"}))
    assert found["uplink"]["changes"] == [[0, 2 * MBIT]]
    assert found["downlink"]["changes"] == [[0, 2 * MBIT]]
    assert found["downlink"]["as"] == "downlink from an uplink trace"
    own = scheduled(experiment(tmp_path, {**both, "direction": "up"}, both))
    assert own["uplink"]["as"] is None
    assert own["downlink"]["changes"] == [[0, 3 * MBIT]]


@pytest.mark.parametrize("direction", ["down", "as-downlink"])
def test_the_other_sides_word_is_refused(tmp_path, direction) -> None:
    with pytest.raises(UserError, match=r"uplink\.direction: expected up .*, or as-uplink"):
        load_experiment(experiment(tmp_path, {"trace": "both.csv", "direction": direction}))
