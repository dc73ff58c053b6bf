"""The dial of `fused`: how far new items reach, what is found of them, and of the others then.

One seed, in the space that was fitted with it, on the validation targets of all users. It is where
the reach was chosen, so no figure here is a claim.
"""

from dataclasses import replace

import numpy as np

from alignment.choose import NOVELTY
from alignment.cold import share_in_top
from alignment.consumer import by_cosine, rank, trial
from alignment.fit import rehearse
from alignment.floors import Ranked
from alignment.fuse import fused
from alignment.interactions import playing_cold
from alignment.space import ItemSpace
from benchmarks.lab import Lab, Rows, named
from benchmarks.stages import Arrays, packed, sources, unpacked

SHARES = "shares"
KNOWN, NEW = "known items", "new items"


def reach(lab: Lab) -> Rows:
    """Rank for every reach that may be chosen, while a tenth of the items plays new."""
    shop, space = lab.shop, lab.fitted(lab.shop, lab.seeds[0])[0]
    made_from = (sources(), sources("cold", __name__), shop.content, shop.split, *named(space))
    kept = dict(lab.stages.keep("reach", made_from, lambda: _measured(lab, space)))
    shares = iter(kept.pop(SHARES).tolist())
    rows: Rows = []
    for each in unpacked(kept):
        what, _, novelty = each.vectors.rpartition(" ")
        found = lab.rows([[each._replace(vectors="fused")]], what)
        if what == NEW:
            found[0]["share of top 10"] = next(shares)
        told = {"split": "validation", "reach": float(novelty)}
        rows += [row | told | {"chosen": float(novelty) == space.dial.novelty} for row in found]
    return rows


def _measured(lab: Lab, space: ItemSpace) -> Arrays:
    """Rank for every reach; the share of new items in all users' top 10, by reach and dim."""
    train, dims = lab.shop.split.train, lab.shop.dims
    rows, known = space.block(lab.shop.content), space.factorise(train)
    playing = playing_cold(len(rows), seed=space.seed)  # beside those that nobody can ask for
    played = rehearse(space, rows, known, train, playing)
    cases = trial(lab.shop.split, on="validation").faded(space.recency)
    cases, new = cases.without(played.new), played.new
    asked = new[cases.targets]
    kinds = {KNOWN: cases.only(np.flatnonzero(~asked)), NEW: cases.only(np.flatnonzero(asked))}
    found: list[Ranked] = []
    shares: list[float] = []
    for novelty in NOVELTY:
        dial = replace(space.dial, novelty=novelty)
        roles = fused(played.context, played.target, played.support, dial, played.residuals)
        scores = {dim: by_cosine(*roles, dim=dim) for dim in dims}
        found += [
            Ranked(f"{kind} {novelty}", dim, rank(score, those))
            for kind, those in kinds.items()
            for dim, score in scores.items()
        ]
        shares += [share_in_top(score, cases, new) for score in scores.values()]
    return {**packed(found), SHARES: np.array(shares)}
