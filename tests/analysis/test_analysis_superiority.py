"""Known differences are found, no difference is not, and asking often is paid for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.bins import bin_tables
from analysis.superiority import corrected, holm, overall, superiority

S = 10**9


def queries(factor: float, seed: int, seconds: int = 60, trials: int = 2) -> pd.DataFrame:
    """dynamic and local over one slowly varying trace; dynamic takes ``factor`` times as long."""
    rng = np.random.default_rng(seed)
    rows = []
    for trial in range(trials):
        trace = np.exp(np.cumsum(rng.normal(0, 0.1, seconds * 2)))
        for policy, scale in (("dynamic", factor), ("local", 1.0)):
            noise = rng.lognormal(0, 0.1, len(trace))
            for place, e2e in enumerate(trace * scale * noise * 1e8):
                at = {"t_s": place / 2, "e2e_ns": e2e, "trial": trial, "policy": policy}
                rows.append({**at, "kind": "measured", "status": "ok"})
    return pd.DataFrame(rows).assign(link="l", load="none")


def test_holm_is_the_published_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_a_known_difference_is_found() -> None:
    (row,) = superiority(bin_tables(queries(0.9, 1)), "l", "none")
    assert row["p"] < 0.01
    # Two lognormal noises of 0.1 apart by log 0.9: Phi(0.105 / 0.1414) = 0.77.
    assert row["probability_low"] < 0.77 < row["probability_high"]
    assert row["effect"] == pytest.approx(0.105 / 0.1414, abs=0.25)


def test_no_difference_is_found_about_as_seldom_as_promised() -> None:
    found = [
        superiority(bin_tables(queries(1.0, seed, 30)), "l", "none")[0]["p"] < 0.05
        for seed in range(60)
    ]
    assert 0.0 <= np.mean(found) <= 0.13


def test_the_table_is_one_question() -> None:
    rows = [
        r
        for seed in range(5)
        for r in superiority(bin_tables(queries(0.97, seed, 20)), "l", "none")
    ]
    frame = corrected(rows)
    assert (frame["p_holm"] >= frame["p"]).all()
    assert corrected([]).empty


def test_the_gain_over_all_cells_holds_the_truth() -> None:
    parts = [queries(0.8, n + 20, 10, trials=3).assign(link=f"l{n}") for n in range(4)]
    (row,) = overall(pd.concat(parts)).to_dict("records")
    dropped = parts[0].assign(status="dropped", e2e_ns=1.0)  # no answer, so no latency
    assert overall(pd.concat([*parts, dropped])).to_dict("records") == [row]
    assert row["cells"] == 12
    assert row["gain_low"] < 0.2 < row["gain_high"]
    assert row["gain"] == pytest.approx(0.2, abs=0.03)
