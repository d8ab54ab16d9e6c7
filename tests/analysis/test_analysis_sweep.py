"""The sweep's arithmetic and report, on a folder with known times."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.sweep import (
    Variant,
    best_of,
    best_static,
    errors,
    gain_map,
    latencies,
    load_sweep,
    shares,
    stretches,
)
from analysis.sweep_answer import doubts, prediction
from analysis.sweep_drawings import sweep_drawings
from analysis.sweep_report import write_sweep_report
from analysis.sweep_tables import encodings_table, loads_table
from testbed.cli import main
from testbed.errors import UserError
from testbed.framing import serialisation_ns
from testbed.records import write_json

MS = 10**6
BYTES = {"uint8": 150_000, "float32": 600_000, "jpeg:75": 20_000}
FEATURES = {"float32": 4, "float16": 2, "int8": 1}
HEAD_MS = {"offload": 0, "1": 30, "3": 60, "local": 160}
TAIL_MS = {"offload": 40, "1": 32, "3": 25, "local": 0}
LOADED = {"wait_ns": 50 * MS, "tail_ns": 50 * MS, "tail_iqr_ns": MS, "n": 12}
ELEMENTS = {"1": 20_000, "3": 8_000}


def profile(batch: int) -> dict[str, Any]:
    found = {
        split: {
            "head_ns": HEAD_MS[split] * MS * batch,
            "encode_ns": 0,
            "decode_ns": 0,
            "tail_ns": TAIL_MS[split] * MS * batch,
            "bytes_up": 0,
            "bytes_down": 0,
            "interval_share": 0.01,
            "n": 20,
        }
        for split in HEAD_MS
    }
    return {"base_network_ns": MS, "candidates": found}


def encodings(batch: int, agreement: bool) -> dict[str, Any]:
    told = {"top1_share": 0.5, "max_abs": 0.25, "mean_abs": 0.01, "images": batch}
    row = {"encode_ns": 0, "decode_ns": 0, **(told if agreement else {})}
    pixels = {n: {"offload": {**row, "bytes": size * batch}} for n, size in BYTES.items()}
    features = {
        name: {split: {**row, "bytes": n * width * batch} for split, n in ELEMENTS.items()}
        for name, width in FEATURES.items()
    }
    # A name may be of both: float32 pixels and float32 features.
    return {n: {**pixels.get(n, {}), **features.get(n, {})} for n in (*BYTES, *FEATURES)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    experiment = {
        "name": "grid",
        "description": "Known times.",
        "encoding": {"input": "uint8", "features": "float16"},
        "sweep": {
            "low": 2_000_000,
            "high": 100_000_000,
            "step": 2_000_000,
            "loads": [1, 4],
            "cells": 1,
            "inputs": list(BYTES),
            "features": list(FEATURES),
        },
    }
    host = {"hostname": "h"}
    write_json(tmp_path / "experiment.resolved.json", {"experiment": experiment})
    write_json(
        tmp_path / "profile.json",
        {
            "model": "tiny",
            "key": {"hosts": {"device": host, "server": host}},
            "rate_bps": 100_000_000,
            "tolerance": 0.03,
            "stopped": {"1": "tight", "4": "budget"},
            "drift": {"offload": 1.0, "1": 1.0, "3": 1.0, "local": 1.25},
            "batches": {"1": profile(1), "4": profile(4)},
            "loads": {"2": {"batch": 1, "candidates": {"3": LOADED}}},
        },
    )
    batches = {str(b): encodings(b, b == 4) for b in (1, 4)}
    write_json(tmp_path / "encodings.json", {"batches": batches})
    row = {"predicted_ns": 100 * MS, "measured_ns": 110 * MS, "low_ns": 90 * MS}
    cell = {"1": {**row, "high_ns": 130 * MS, "n": 4}}
    cell["1"]["retimed_ns"] = 108 * MS
    cell["3"] = {"predicted_ns": MS, "measured_ns": None, "low_ns": None, "high_ns": None, "n": 0}
    cells = [{"rate_bps": 4_000_000, "batch": 1, "candidates": cell}]
    write_json(tmp_path / "cells.json", {"cells": cells})
    write_json(tmp_path / "verify.json", {"splits": {"1": {"top1": True}}})
    return tmp_path


def test_every_accounting_changes_only_what_crosses(folder: Path) -> None:
    sweep = load_sweep(folder)
    assert len(sweep.variants) == 12
    rates = sweep.rates_bps
    by_name = {v: latencies(sweep, v, 4, rates) for v in sweep.variants}
    for variant, found in by_name.items():
        assert ("offload" in found) == (variant.pixels is not None)
        assert np.all(found["local"] == 640)
        if variant.pixels:
            size = BYTES[variant.pixels] * 4 + 64
            expected = [160 + 1 + serialisation_ns(size, rate) / 1e6 for rate in rates]
            assert np.allclose(found["offload"], expected)
    wide, narrow = (by_name[Variant("uint8", f)]["3"] for f in ("float32", "int8"))
    assert np.all(wide > narrow)
    loaded = latencies(sweep, Variant("uint8", "int8"), 1, rates, load=4)
    alone = latencies(sweep, Variant("uint8", "int8"), 1, rates)
    assert np.allclose(loaded["offload"] - alone["offload"], 3 * 40)
    assert np.all(loaded["local"] == alone["local"])


def test_crossovers_shares_and_gains_agree(folder: Path) -> None:
    sweep = load_sweep(folder)
    variant = Variant("uint8", "float16")
    found = latencies(sweep, variant, 1, sweep.rates_bps)
    best, least = best_of(found)
    along = stretches(best, sweep.rates_bps)
    assert [s.split for s in along] == ["3", "1", "offload"]
    assert along[0].low_bps == 2_000_000
    assert along[-1].high_bps == 100_000_000
    for before, after in pairwise(along):
        assert after.low_bps - before.high_bps == 2_000_000
    assert np.all(least == np.min(list(found.values()), axis=0))
    told = shares(sweep, variant)
    assert told["local_share"] + told["split_share"] + told["offload_share"] == pytest.approx(1)
    assert 0 < told["gain_median"] < told["gain_max"] < 1
    without = shares(sweep, Variant(None, "float16"))
    assert without["offload_share"] == 0
    assert without["split_share"] > told["split_share"]
    ratios = {s: gain_map(sweep, variant, s) for s in sweep.splits}
    assert min(r.min() for r in ratios.values()) == 1
    assert all(r.shape == (2, 50) for r in ratios.values())
    # Not clipped: offload at the slowest rate is as bad as the formula says.
    assert ratios["offload"][0, 0] == pytest.approx(found["offload"][0] / least[0])
    means = {s: np.mean([latencies(sweep, variant, b, sweep.rates_bps)[s].mean() for b in (1, 4)])
             for s in sweep.splits}  # fmt: skip
    assert best_static(sweep, variant) == min(means, key=lambda s: means[s])


def test_report_tells_doubts_and_every_number_and_is_made_again_to_the_byte(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, summary = write_sweep_report(folder)
    assert errors(load_sweep(folder)) == [pytest.approx(0.1)]
    assert errors(load_sweep(folder), 4) == []
    assert "(batch 1: 10 %)" in summary["prediction"].replace("\xa0", " ")
    assert "with offload left out, as public code has it" in summary["reading"]
    assert page.read_text().count(summary["reading"]) == 1
    assert summary["prediction_error"] == {"median": 0.1, "p90": 0.1, "max": 0.1, "n": 1}
    assert summary["formula_error"]["median"] == pytest.approx(110 / 108 - 1, abs=1e-4)
    assert "formula is off by 1.9 %" in summary["prediction"].replace("\xa0", " ")
    assert json.loads((folder / "report/summary.json").read_text()) == summary
    assert any("batch 4" in doubt and "budget" in doubt for doubt in summary["doubts"])
    assert any("local ×1.25" in doubt for doubt in summary["doubts"])
    html = page.read_text()
    assert html.count("<img") == 5
    assert "http" not in html.replace("http://www.w3.org", "")
    assert summary["answer"] in html
    for name, rows in summary["tables"].items():
        assert rows, name
        assert f'href="tables/{name}.csv"' in html
    for link in re.findall(r"href=\"([^#\"]+)\"", html):
        assert (page.parent / link).is_file(), link
    contents = html[html.index("<nav") : html.index("</nav>")]
    for anchor in re.findall(r'<(?:figure|h2|h3|section) id="([^"]+)"', html):
        assert html.count(f'id="{anchor}"') == 1
        assert f'href="#{anchor}"' in contents, anchor
    first = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert main(["report", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["report"], told["answer"]) == (str(page), summary["answer"])
    again = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert again == first
    assert main(["report", str(folder), "--format", "md"]) == 2
    assert "expected --format html, pdf-figures, csv, got md" in capsys.readouterr().err


def test_labelled_images_have_their_accuracy_beside_the_latency(folder: Path) -> None:
    path = folder / "encodings.json"
    told = json.loads(path.read_text())
    for rows in told["batches"][max(told["batches"], key=int)].values():
        for row in rows.values():
            row |= {"accuracy": 0.75, "whole_accuracy": 0.875}
    write_json(path, told)
    sweep = load_sweep(folder)
    table = encodings_table(sweep)
    assert [name for name, _ in table.columns][:4] == ["encoding", "split", "latency ms", "right"]
    assert (
        f"Of {sweep.batches[-1]} labelled images the whole model has 88\u00a0% right." in table.note
    )


def test_the_load_is_how_many_times_longer_the_server_takes(folder: Path) -> None:
    (row,) = loads_table(load_sweep(folder)).frame.to_dict("records")
    assert (row["clients"], row["split"], row["load"]) == (2, "3", 100 / TAIL_MS["3"])


def test_a_sweep_without_cells_and_a_folder_that_is_none(folder: Path, tmp_path: Path) -> None:
    (folder / "cells.json").unlink()
    sweep = load_sweep(folder)
    assert "not checked" in prediction(sweep)
    assert any("0 of 1 cells were run" in doubt for doubt in doubts(sweep))
    assert "cells" not in sweep_drawings(sweep)
    with pytest.raises(UserError, match="testbed sweep"):
        write_sweep_report(tmp_path / "report")
