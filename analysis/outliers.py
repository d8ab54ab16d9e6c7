"""What is cut as warm-up, and which queries stand out; those are shown, and none is dropped.

A query's time less what the link explains (serialisation at the rates set, and propagation) is
held against the other queries of its policy and split under the same condition.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.bootstrap import FEWEST
from analysis.metrics import by_policy, counted
from analysis.policies import split_label
from analysis.tables import POLICY, Table, count, num, share, text

# Median absolute deviations; of normally distributed times one in 1 300 lies beyond so many.
FAR_MADS = 5.0
_SHOWN = 3  # of each policy, the furthest
_FIRST = 5  # queries after the warm-up: whether it was long enough
_GROUP = ["policy", "split"]
_NEEDED = ("run_id", "device", "query", "split", "t_s", "e2e_ns", "floor_ns", "head_ns", "tail_ns")


def judged_apart(queries: pd.DataFrame) -> pd.DataFrame:
    """One condition's counted queries with ``own_ms``, ``usual_ms`` and ``mads``.

    ``own_ms`` is the time less what the link explains, ``usual_ms`` its median over the policy's
    queries with that split, ``mads`` how many median absolute deviations lie between; NaN where
    fewer than :data:`analysis.bootstrap.FEWEST` queries are alike.
    """
    done = counted(queries, *_NEEDED)
    link_ns = done["floor_ns"] - done["head_ns"] - done["tail_ns"].fillna(0)
    own_ms = (done["e2e_ns"] - link_ns) / 1e6
    names = [done[name] for name in _GROUP]
    alike = own_ms.groupby(names, observed=True)
    usual_ms = alike.transform("median")
    off_ms = own_ms - usual_ms
    mad_ms = off_ms.abs().groupby(names, observed=True).transform("median")
    enough = (alike.transform("size") >= FEWEST) & (mad_ms > 0)
    return done.assign(own_ms=own_ms, usual_ms=usual_ms, mads=(off_ms / mad_ms).where(enough))


def outlier_tables(queries: pd.DataFrame) -> list[Table]:
    """How many stand out of each policy's queries under one condition, and the furthest of them."""
    judged = judged_apart(queries)
    return [_counts(queries, judged), _furthest(judged)]


def _counts(queries: pd.DataFrame, judged: pd.DataFrame) -> Table:
    warmup = queries["policy"][queries["kind"] == "warmup"].value_counts()
    rows = []
    for policy, done in by_policy(judged):
        far = done["mads"].abs() > FAR_MADS
        first = done.sort_values("query").groupby(["run_id", "device"], observed=True).head(_FIRST)
        rows.append(
            {
                "policy": policy,
                "warmup": int(warmup.get(policy, 0)),
                "n": len(done),
                "slow": int((done["mads"] > FAR_MADS).sum()),
                "fast": int((done["mads"] < -FAR_MADS).sum()),
                "share": float(far.mean()),
                "mean_ms": float(done["e2e_ns"].mean()) / 1e6,
                "mean_without_ms": float(done["e2e_ns"][~far].mean()) / 1e6,
                "first_ratio": float((first["own_ms"] / first["usual_ms"]).median()),
            }
        )
    return Table(
        "outliers",
        "What is cut, and what stands out",
        "Warm-up: the first queries of every run, as many as run.warmup_queries says, and those "
        "during which a policy says that it still settles, are in no figure; first "
        f"{_FIRST} ÷ usual: the median of the first {_FIRST} after it, near 1 where it was long "
        "enough. Outliers: a query's time, less what the link explains at the rates "
        f"set, is over {FAR_MADS:.0f} median absolute deviations (MAD) from the median of the "
        "policy's queries with that split. They are in every figure; the mean without them says "
        "how much they weigh.",
        pd.DataFrame(rows),
        (
            POLICY,
            ("warm-up cut", count("warmup")),
            ("n", count("n")),
            ("slow outliers", count("slow")),
            ("fast outliers", count("fast")),
            ("of all", share("share")),
            ("mean ms", num("mean_ms")),
            ("mean without", num("mean_without_ms")),
            (f"first {_FIRST} ÷ usual", num("first_ratio")),
        ),
    )


def _furthest(judged: pd.DataFrame) -> Table:
    rows: list[dict[str, Any]] = []
    for policy, done in by_policy(judged[judged["mads"].abs() > FAR_MADS]):
        order = done["mads"].abs().sort_values(ascending=False, kind="stable").index[:_SHOWN]
        rows += [
            {
                "policy": policy,
                "run_id": str(row["run_id"]),
                "device": str(row["device"]),
                "query": int(row["query"]),
                "t_s": float(row["t_s"]),
                "split": str(row["split"]),
                "e2e_ms": float(row["e2e_ns"]) / 1e6,
                "own_ms": float(row["own_ms"]),
                "usual_ms": float(row["usual_ms"]),
                "mads": float(row["mads"]),
            }
            for row in done.loc[order].to_dict("records")
        ]
    return Table(
        "furthest",
        "The furthest outliers",
        f"Up to {_SHOWN} of each policy. Own: less what the link explains; usual: the median of "
        "the policy's queries with that split.",
        pd.DataFrame(rows),
        (
            POLICY,
            ("run", text("run_id")),
            ("query", count("query")),
            ("at s", num("t_s")),
            ("split", lambda row: split_label(row["split"])),
            ("latency ms", num("e2e_ms")),
            ("own ms", num("own_ms")),
            ("usual ms", num("usual_ms")),
            ("MADs off", num("mads")),
        ),
    )
