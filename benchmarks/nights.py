"""Night after night in one space: whether vectors of different nights can be read together.

It knows a lab and how a shop grows; which nights there are, benchmarks/times.py says.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from alignment.consumer import Trial, by_cosine, figures, rank, trial
from alignment.versions import Version, cross_version
from benchmarks.lab import Lab, Rows, Shop
from benchmarks.times import among_first, has_times, nights


def night_after_night(lab: Lab) -> Rows:
    """Keep one space while log and catalogue grow, and compare nights with each other.

    retrained: R@10 of a space fitted anew that night, all else as in "new x new"; of several seeds
    every value is the mean, and se that of one seed over users.
    """
    if not (shops := night_shops(lab)):
        return []
    runs = [_nights(lab, shops, seed) for seed in lab.seeds]
    return [
        {"catalog": lab.shop.name, "vectors": "fused", "consumer": "A", "dim": dim}
        | {"split": "leave-last-out", "masked": True, "slice": f"night {k}"}
        | {name: float(np.mean([each[name] for each in same])) for name in same[0]}
        | {"seeds": len(lab.seeds)}
        for (k, dim), *same in zip(_cells(lab, shops), *runs, strict=True)
    ]


def _cells(lab: Lab, shops: Sequence[Shop]) -> list[tuple[int, int]]:
    """Return every night after the first with every dim."""
    return list(product(range(1, len(shops)), lab.shop.dims))


def _nights(lab: Lab, shops: Sequence[Shop], seed: int) -> list[dict[str, float]]:
    """Compare nights with each other in the space of one seed, a dictionary per night and dim."""
    first, *grown = shops
    space, views = lab.fitted(first, seed)
    fused = [Version.of(space, views), *lab.refreshed(grown, space)]
    anew = [Version.of(*lab.fitted(shop, seed)) for shop in grown]
    cases = [trial(shop.split, on="test") for shop in grown]
    return [
        _across(fused[: k + 1], anew[k - 1], cases[k - 1], dim) for k, dim in _cells(lab, shops)
    ]


def night_shops(lab: Lab) -> list[Shop]:
    """Return the shop as it was, night after night, where the log has times."""
    shop = lab.shop
    if not has_times(shop.sequences):
        return []
    return [
        replace(shop, content=night.content, split=night.split)
        for night in nights(shop.content, shop.sequences)
    ]


def _across(
    fused: Sequence[Version], retrained: Version, cases: Trial, dim: int
) -> dict[str, float]:
    """Read the last night's users with earlier nights' vectors, among the items of those nights."""
    newest, row = fused[-1], dict[str, float]()
    for name, older in (("the night before", fused[-2]), ("the first night", fused[0])):
        n = len(older.context)
        common = newest._replace(context=newest.context[:n], target=newest.target[:n])
        found = cross_version(older, common, among_first(cases, n), dim=dim)
        row[f"ratio to {name}"] = found["ratio"]
        if older is fused[-2]:
            row |= {name: value for name, value in found.items() if name != "ratio"}
    ours, theirs = (
        rank(by_cosine(each.context, each.target, dim=dim), cases.faded(each.recency)).masked
        for each in (newest, retrained)
    )
    row |= {"R@10": figures(ours)["R@10"], "retrained": figures(theirs)["R@10"]}
    return row | {"se": figures(theirs)["se"]}
