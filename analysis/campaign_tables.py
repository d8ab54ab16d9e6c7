"""The tables of the whole campaign: link, load, results, clocks, runs."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis import fidelity
from analysis.bins import Binned
from analysis.dataset import Dataset
from analysis.formats import yes_no
from analysis.policies import policy_label, split_label
from analysis.superiority import corrected, overall, superiority
from analysis.tables import Table, count, num, share, share_range, text


def campaign_tables(
    data: Dataset, queries: pd.DataFrame, binned: Mapping[tuple[str, str], Binned]
) -> list[Table]:
    """The tables of the whole campaign; those without a row are left out.

    ``binned`` are each condition's queries by :func:`analysis.bins.bin_tables`.
    """
    verify = tuple((key, lambda row, k=key: yes_no(row[k])) for key in ("digest", "equal", "top1"))
    made = [
        _overall(queries),
        _superiority(binned),
        Table(
            "link",
            "Link fidelity",
            "How late the router applied the rate changes, and the bytes that the shaped class "
            "carried ÷ the framed bytes of the payloads sent (acknowledgements make it a little "
            "more than 1).",
            fidelity.link_table(data, queries),
            (
                ("link", text("link")),
                ("direction", text("direction")),
                ("changes", count("changes")),
                ("late p50 ms", num("late_p50_ms")),
                ("late p99 ms", num("late_p99_ms")),
                ("late max ms", num("late_max_ms")),
                ("carried ÷ offered", num("carried_share")),
                ("drops", count("drops")),
            ),
        ),
        Table(
            "load",
            "Load achieved on the server",
            "Means over the runs. A level is the share of time that the executor, or each of the "
            "processors asked for, is kept busy; worst: the run furthest off.",
            fidelity.load_table(data),
            (
                ("load", text("load")),
                ("records", count("n")),
                ("runs", count("runs")),
                ("clients", num("clients")),
                ("level asked", num("level")),
                ("achieved", num("achieved")),
                ("worst off by", num("off")),
                ("queries a second", num("queries_per_s")),
                ("CPU busy", share("busy_share")),
            ),
        ),
        Table(
            "verify",
            "Split equals whole, over the wire",
            "Bytes received are the bytes sent; the result against the whole model's there.",
            fidelity.verify_table(data),
            (
                ("split", lambda row: split_label(row["split"])),
                *verify,
                ("largest difference", num("max_abs")),
            ),
        ),
        Table(
            "clocks",
            "Clocks",
            "How far a host's clock offset may be off, and how much it moved in a run, at worst. "
            "Only the figures that set router and device on one axis need it.",
            fidelity.clock_table(data),
            (
                ("host", text("host")),
                ("bound µs", num("bound_us")),
                ("drift µs", num("drift_us")),
            ),
        ),
        Table(
            "runs",
            "Runs",
            "In the order they were run. Others' CPU is what of a machine's CPU time neither the "
            "testbed nor a hypervisor took: on the machine where others took most.",
            fidelity.run_table(data, queries),
            (
                ("run", text("run_id")),
                ("state", text("state")),
                ("validity", text("validity")),
                ("queries", count("queries")),
                ("length s", num("duration_s")),
                ("stolen CPU", share("steal_share")),
                ("others' CPU", share("others_share")),
                ("page faults", count("page_faults")),
            ),
            style="words",
        ),
    ]
    return [table for table in made if len(table.frame)]


def _overall(queries: pd.DataFrame) -> Table:
    return Table(
        "overall",
        "Gain of dynamic over all conditions and trials",
        "1 − geometric mean of dynamic's mean latency ÷ the other's, every condition and trial "
        "counting once; 95 % bootstrap interval (BCa) over those cells.",
        overall(queries),
        (
            ("over", lambda row: policy_label(row["over"])),
            ("cells", count("cells")),
            ("gain", share_range("gain")),
        ),
    )


def _superiority(binned: Mapping[tuple[str, str], Binned]) -> Table:
    rows = [row for (link, load), bins in binned.items() for row in superiority(bins, link, load)]
    return Table(
        "superiority",
        "Is dynamic really faster?",
        "Probability: share of the trace's moments at which dynamic was the faster, the same "
        "moments for both. Effect: mean difference of the logarithms ÷ its standard deviation. p: "
        "two-sided, circular blocks, so that neighbours that are alike do not count twice; after "
        "Holm: corrected for every row of this table being asked.",
        corrected(rows),
        (
            ("link", text("link")),
            ("load", text("load")),
            ("over", lambda row: policy_label(row["over"])),
            ("moments", count("moments")),
            ("probability", share_range("probability")),
            ("effect", num("effect")),
            ("p", num("p")),
            ("p after Holm", num("p_holm")),
        ),
    )
