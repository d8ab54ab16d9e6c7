"""Where to split for one rate, round trip and server load, from a profile. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.errors import UserError
from testbed.framing import serialisation_ns
from testbed.model.table import LOCAL
from testbed.policy.latency import Candidate, candidates_from_profile, predict_ns
from testbed.records import SCHEMA_VERSION

_LOAD_MOST = 1e6  # a server slower than that is none


def advice(
    profile: Mapping[str, Any],
    model: str,
    *,
    rate_bps: int,
    rtt_ns: int,
    batch: int | None,
    load: float,
) -> dict[str, Any]:
    """The candidates from fastest to slowest with the parts of each prediction.

    ``device_ns`` is head and encode, ``uplink_ns`` serialisation at the rate, ``network_ns`` the
    round trip and what the profile's own link took beyond serialisation, ``server_ns`` decode and
    tail under the load. The parts add up to ``total_ns``.

    Raises UserError for another model's profile, a batch size it lacks, a rate of none, or a load
    that is not within 1 and a million.
    """
    measured = profile["batches"]
    chosen = str(min(map(int, measured)) if batch is None else batch)
    if chosen not in measured:
        known = ", ".join(sorted(measured, key=int))
        raise UserError(f"--batch: the profile has {known}, not {chosen}; profile that one too")
    found = measured[chosen]
    told = found["model"]
    if model not in (told, told.partition(":")[2], f"torchvision:{told}"):
        raise UserError(
            f"--device-profile: is of {told}, not of {model}; profile that model: "
            "testbed profile EXPERIMENT"
        )
    if rate_bps < 1:
        raise UserError(
            "--rate: expected 1bit or more, got less; at none at all local is the split"
        )
    if not 1 <= load <= _LOAD_MOST:  # nan is neither
        raise UserError(
            "--load: expected how many times slower the server is, 1 (idle) to "
            f"{_LOAD_MOST:,.0f}, got {load:g}"
        )
    base_ns = found["base_network_ns"] + rtt_ns
    ranking = sorted(
        (_row(c, rate_bps, base_ns, load) for c in candidates_from_profile(found)),
        key=lambda row: row["total_ns"],
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "model": found["model"],
        "batch": int(chosen),
        "rate_bps": rate_bps,
        "rtt_ns": rtt_ns,
        "load": load,
        "encoding": " and ".join(found["encoding"].values()),
        "ranking": ranking,
        "answer": _answer(ranking),
    }


def _row(candidate: Candidate, rate_bps: int, base_ns: int, load: float) -> dict[str, Any]:
    remote = candidate.split != LOCAL
    total = predict_ns(candidate, rate_bps=rate_bps, base_network_ns=base_ns, load=load)
    return {
        "split": candidate.split,
        "total_ns": total,
        "device_ns": candidate.head_ns + candidate.encode_ns,
        "uplink_ns": serialisation_ns(candidate.bytes_up, rate_bps) if remote else 0,
        "network_ns": base_ns if remote else 0,
        "server_ns": round((candidate.decode_ns + candidate.tail_ns) * load) if remote else 0,
        "bytes_up": candidate.bytes_up,
    }


def _answer(ranking: list[dict[str, Any]]) -> str:
    names = [f"split {row['split']}" if row["split"].isdigit() else row["split"] for row in ranking]
    if len(ranking) == 1:
        return f"{names[0]}: the profile has no other candidate"
    best_ns, second_ns = (row["total_ns"] for row in ranking[:2])
    gain = 100 * (1 - best_ns / second_ns)
    return f"{names[0]}: {best_ns / 1e6:.1f} ms, {gain:.0f} % less than the next, {names[1]}"
