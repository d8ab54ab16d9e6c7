"""netem for pyroute2, whole: the library's own plugin lacks the half of it.

A plugin of the library (``tcmsg.plugins``) with a 64-bit delay in nanoseconds, the distribution
table, Gilbert–Elliott loss, the seed and the rate, for both ways: what is sent and what is read
back. ``ipr.tc("add", "netem", …, netem=Netem(…), limit=…)``. Constants: linux/pkt_sched.h.
"""

from __future__ import annotations

import struct
import sys
from typing import Any

from pyroute2.netlink import nla
from pyroute2.netlink.rtnl import TC_H_ROOT
from pyroute2.netlink.rtnl.tcmsg import plugins

from testbed.link.netem import ORDER_RATE_BYTES_PER_S, Netem, delay_table

parent = TC_H_ROOT
_WHOLE = 2**32 - 1
_DEFAULT_LIMIT = 1000  # the kernel's own


class options(nla):  # type: ignore[misc]
    """``TCA_OPTIONS`` of netem: a struct, then attributes."""

    fields = (
        ("latency", "I"),
        ("limit", "I"),
        ("loss", "I"),
        ("gap", "I"),
        ("duplicate", "I"),
        ("jitter", "I"),
    )
    nla_map = (
        ("TCA_NETEM_UNSPEC", "none"),
        ("TCA_NETEM_CORR", "correlations"),
        ("TCA_NETEM_DELAY_DIST", "cdata"),
        ("TCA_NETEM_REORDER", "share"),
        ("TCA_NETEM_CORRUPT", "share"),
        ("TCA_NETEM_LOSS", "loss"),
        ("TCA_NETEM_RATE", "pace"),
        ("TCA_NETEM_ECN", "uint32"),
        ("TCA_NETEM_RATE64", "uint64"),
        ("TCA_NETEM_PAD", "cdata"),
        ("TCA_NETEM_LATENCY64", "int64"),
        ("TCA_NETEM_JITTER64", "int64"),
        ("TCA_NETEM_SLOT", "cdata"),
        ("TCA_NETEM_SLOT_DIST", "cdata"),
        ("TCA_NETEM_PRNG_SEED", "uint64"),
    )

    class correlations(nla):  # type: ignore[misc]
        """struct tc_netem_corr."""

        fields = (("delay", "I"), ("loss", "I"), ("duplicate", "I"))

    class share(nla):  # type: ignore[misc]
        """struct tc_netem_reorder and tc_netem_corrupt."""

        fields = (("probability", "I"), ("correlation", "I"))

    class pace(nla):  # type: ignore[misc]
        """struct tc_netem_rate."""

        fields = (
            ("rate", "I"),
            ("packet_overhead", "i"),
            ("cell_size", "I"),
            ("cell_overhead", "i"),
        )

    class loss(nla):  # type: ignore[misc]
        """A loss model; type 2 is Gilbert–Elliott."""

        nla_map = (
            ("NETEM_LOSS_UNSPEC", "none"),
            ("NETEM_LOSS_GI", "cdata"),
            ("NETEM_LOSS_GE", "gilbert"),
        )

        class gilbert(nla):  # type: ignore[misc]
            """struct tc_netem_gemodel; ``h`` is the chance that a packet survives the bad state."""

            fields = (("p", "I"), ("r", "I"), ("h", "I"), ("k1", "I"))


def get_parameters(kwarg: dict[str, Any]) -> dict[str, Any]:
    """The options of a :class:`Netem`; called by the library."""
    netem: Netem = kwarg.get("netem", Netem())
    fixed, attributes = expected(netem, kwarg.get("limit", _DEFAULT_LIMIT))
    if table := delay_table(netem.distribution):
        attributes["TCA_NETEM_DELAY_DIST"] = struct.pack(f"{len(table)}h", *table)
    return {**fixed, "attrs": list(attributes.items())}


def expected(netem: Netem, limit: int) -> tuple[dict[str, int], dict[str, Any]]:
    """The struct and the attributes, the table apart (the kernel does not tell it back).

    Always the full set: a field of the struct that a change leaves out goes back to its default.
    """
    fixed = {
        "latency": 0,  # in ticks; the 64-bit attributes say it in ns
        "limit": limit,
        "loss": _u32(netem.loss),
        "gap": 1 if netem.reorder else 0,
        "duplicate": _u32(netem.duplicate),
        "jitter": 0,
    }
    attributes: dict[str, Any] = {
        "TCA_NETEM_LATENCY64": netem.delay_ns,
        "TCA_NETEM_JITTER64": netem.jitter_ns,
        "TCA_NETEM_CORR": {
            "delay": _u32(netem.jitter_correlation),
            "loss": _u32(netem.loss_correlation),
            "duplicate": 0,
        },
        "TCA_NETEM_REORDER": {"probability": _u32(netem.reorder), "correlation": 0},
        "TCA_NETEM_CORRUPT": {"probability": _u32(netem.corrupt), "correlation": 0},
    }
    if netem.gilbert:
        model = netem.gilbert
        states = {
            "p": _u32(model.to_bad),
            "r": _u32(model.to_good),
            "h": _u32(1 - model.loss_bad),
            "k1": _u32(model.loss_good),
        }
        attributes["TCA_NETEM_LOSS"] = {"attrs": [("NETEM_LOSS_GE", states)]}
    if netem.keeps_order:
        attributes["TCA_NETEM_RATE"] = {
            "rate": ORDER_RATE_BYTES_PER_S,
            "packet_overhead": 0,
            "cell_size": 0,
            "cell_overhead": 0,
        }
    if netem.seed is not None:
        attributes["TCA_NETEM_PRNG_SEED"] = netem.seed
    return fixed, attributes


def differing(netem: Netem, limit: int, found: Any) -> dict[str, tuple[Any, Any]]:
    """Option to (wanted, found) where the kernel holds another value than was set.

    Kernels before 6.6 take no seed and do not say so: here it is seen.
    """
    fixed, attributes = expected(netem, limit)
    pairs = {
        name: (value, found[name])
        for name, value in fixed.items()
        if name not in ("latency", "jitter")
    }
    for name, value in attributes.items():
        pairs[name] = (_plain(value), _plain(found.get_attr(name)))
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        inner = {name: _plain(v) for name, v in value.items() if name not in ("attrs", "header")}
        return inner | {name: _plain(v) for name, v in value.get("attrs", ())}
    return value


def _u32(share: float) -> int:
    return round(share * _WHOLE)


plugins["netem"] = sys.modules[__name__]
