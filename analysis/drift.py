"""Whether hosts or latencies drifted while the campaign went on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from analysis.dataset import Dataset
from analysis.metrics import measured

# Repeated runs needed before an order effect can be told from chance, and the chance allowed.
_ORDER_RUNS = 8
_ORDER_P = 0.01
# Between the starts of runs: a cooler and a hotter CPU, a slower and a faster one, do not compare.
_CELSIUS = 10.0
_FREQUENCY_SHARE = 0.10
# As ``check`` warns; beyond the runs' own bound a run is degraded, and said to be.
_BUSY_SHARE = 0.25


def host_drift(data: Dataset) -> Iterator[str]:
    """What changed on each host from the start of one run to that of another."""
    runs = [data.recorded.get(run.folder.name, {}) for run in data.runs]
    for host in dict.fromkeys(host for found in runs for host in found):
        celsius, hertz, busy = (
            [value for found in runs if (value := found.get(host, {}).get(key)) is not None]
            for key in ("celsius", "frequency_hz", "busy_share")
        )
        if _spread(celsius) > _CELSIUS:
            yield (
                f"{host}: runs began between {min(celsius):.0f} and {max(celsius):.0f} °C "
                f"(bound {_CELSIUS:.0f} °C apart): cool it, or let it warm up."
            )
        if hertz and _spread(hertz) > _FREQUENCY_SHARE * min(hertz):
            yield (
                f"{host}: runs began with the CPU between {min(hertz) / 1e9:.2f} and "
                f"{max(hertz) / 1e9:.2f} GHz (bound {_FREQUENCY_SHARE:.0%} apart)."
            )
        if crowded := [share for share in busy if share > _BUSY_SHARE]:
            yield (
                f"{host}: others kept up to {max(crowded):.0%} of the CPU busy before "
                f"{len(crowded)} of {len(busy)} runs (bound {_BUSY_SHARE:.0%})."
            )


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values) if values else 0.0


def order_effect(queries: pd.DataFrame) -> Iterator[str]:
    """Whether runs got slower or faster as the campaign went on, whatever they ran."""
    needed = ["run_id", "link", "load", "policy", "run_index", "kind", "e2e_ns"]
    done = measured(queries[needed])
    means = done.groupby(["run_id", "link", "load", "policy", "run_index"], observed=True)["e2e_ns"]
    logs = np.log(means.mean()).reset_index()
    cells = logs.groupby(["link", "load", "policy"], observed=True)["e2e_ns"]
    logs["off"] = logs["e2e_ns"] - cells.transform("mean")
    logs = logs[cells.transform("size") > 1]
    if len(logs) < _ORDER_RUNS:
        return
    found = spearmanr(logs["run_index"], logs["off"])
    if found.pvalue < _ORDER_P:
        way = "slower" if found.statistic > 0 else "faster"
        yield (
            f"Runs got {way} in the order they were run (Spearman {found.statistic:.2f} over "
            f"{len(logs)} runs, p {found.pvalue:.2g}): something drifted."
        )
