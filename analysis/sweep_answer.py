"""What a sweep showed, in sentences."""

from __future__ import annotations

from statistics import median, quantiles

from analysis.formats import percent
from analysis.policies import split_label
from analysis.sweep import Sweep, best_static, errors, gain_map, shares

# Beyond this the hosts were not the same at the end as at the start.
_DRIFT = 0.10


def answer(sweep: Sweep) -> str:
    """What choosing is worth, in one sentence."""
    variant = sweep.measured_variant
    static = best_static(sweep, variant)
    saving = float((1 - 1 / gain_map(sweep, variant, static)).mean())
    return (
        f"Choosing the split for each rate and batch size saves {percent(saving)} on average over "
        f"the best static choice, {split_label(static)} ({variant.label})."
    )


def reading(sweep: Sweep) -> str:
    """The table of accountings in two sentences: how much what is counted decides."""
    found: dict[str | None, list[float]] = {}
    for variant in sweep.variants:
        found.setdefault(variant.pixels, []).append(shares(sweep, variant)["split_share"])
    told = [
        f"{_range(each)} {f'with offload as {pixels}' if pixels else 'with offload left out'}"
        for pixels, each in found.items()
    ]
    return (
        f"The share of cells in which a split beats both ends is {', '.join(told[:-1])} and "
        f"{told[-1]}, as public code has it (ranges are over the encodings of features). The "
        "measured times are the same throughout: what offload is taken to send decides whether "
        "splitting wins, before any policy."
    )


def _range(values: list[float]) -> str:
    return " to ".join(dict.fromkeys([percent(min(values)), percent(max(values))]))


def prediction(sweep: Sweep) -> str:
    """How far the cells that were run lie from their predictions, in one sentence."""
    found = errors(sweep)
    if not found:
        return "No cell was run: the predictions are not checked."
    sizes = [abs(error) for error in found]
    by_batch = ", ".join(
        f"batch {batch}: {percent(median(map(abs, own)))}"
        for batch in sweep.batches
        if (own := errors(sweep, batch))
    )
    told, verb = (
        ("1 cell", "was") if len(sweep.cells) == 1 else (f"{len(sweep.cells)} cells", "were")
    )
    return (
        f"In {told} that {verb} run, {len(found)} candidates in all, measured lies "
        f"{percent(median(sizes))} from predicted in the median ({by_batch}), "
        f"{percent(ninetieth(sizes))} in the 90th percentile and {percent(max(sizes))} at worst "
        f"(signed median {percent(median(found))}).{_formula(sweep)}"
    )


def _formula(sweep: Sweep) -> str:
    """The same without what the hosts computed slower or faster than in the profile."""
    sizes = [abs(error) for error in errors(sweep, against="retimed_ns")]
    if not sizes:
        return ""
    return (
        " With the heads and tails of those very queries in the profile's place, the formula is "
        f"off by {percent(median(sizes))} in the median, {percent(ninetieth(sizes))} in the 90th "
        "percentile: the rest is hosts that were faster or slower than when they were profiled."
    )


def ninetieth(values: list[float]) -> float:
    """The 90th percentile of one value or more."""
    return quantiles(values, n=10, method="inclusive")[-1] if len(values) > 1 else values[0]


def doubts(sweep: Sweep) -> list[str]:
    """What should be known before the figures are believed."""
    profile = sweep.profile
    found = [
        f"batch {', '.join(loose)}: the time budget was spent before every median was known within "
        f"±{percent(profile['tolerance'])}"
        for loose in [[b for b, stopped in profile["stopped"].items() if stopped != "tight"]]
        if loose
    ]
    drifted = {s: r for s, r in profile["drift"].items() if abs(r - 1) > _DRIFT}
    if drifted:
        told = ", ".join(f"{split_label(s)} ×{r:.3g}" for s, r in drifted.items())
        found.append(f"the hosts drifted: at the end the first batch size took {told}")
    if len(sweep.cells) < sweep.cells_planned:
        found.append(
            f"the sweep did not end as planned: {len(sweep.cells)} of {sweep.cells_planned} cells "
            "were run"
        )
    found += [f"the link was not as asked: {fault}" for fault in sweep.link_faults]
    lossy = [s for s, verdict in sweep.verify.items() if not verdict["top1"]]
    if lossy:
        found.append(f"the encoding changed the class of an image at {', '.join(lossy)}")
    return found
