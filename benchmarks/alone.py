"""What training for one dim alone gives: what a prefix of nested vectors must beat.

All that is read is the same: the content block, the evidence, and the order of energy of the space.
How long is trained is chosen for that dim, and for fused how histories are read.
"""

from dataclasses import replace
from functools import partial

from alignment.consumer import by_cosine, rank, trial
from alignment.evaluate import Roles
from alignment.fit import Looks, relearn, train_head, validation_judge
from alignment.floors import Ranked
from alignment.fuse import fused, ordered
from alignment.space import ItemSpace
from benchmarks.lab import Lab, named
from benchmarks.stages import Arrays, packed, sources, unpacked


def alone(lab: Lab) -> list[Ranked]:
    """Rank the test targets by fused and aligned, each trained for every dim alone, first seed."""
    space = lab.fitted(lab.shop, lab.seeds[0])[0]
    made_from = (sources(), sources(__name__), lab.shop.content, lab.shop.split, *named(space))
    wanted = [((*made_from, dim), partial(_measured, lab, space, dim)) for dim in lab.shop.dims]
    return [each for kept in lab.stages.keep_each("alone", wanted) for each in unpacked(kept)]


def _measured(lab: Lab, space: ItemSpace, dim: int) -> Arrays:
    roles, recency = _fused(lab, space, dim)
    found = [("fused", roles, recency), ("aligned", _aligned(lab, space, dim), space.recency)]
    cases = trial(lab.shop.split, on="test")
    return packed(
        [
            Ranked(name, dim, rank(by_cosine(*rows, dim=dim), cases.faded(faded)))
            for name, rows, faded in found
        ]
    )


def _fused(lab: Lab, space: ItemSpace, dim: int) -> tuple[Roles, float]:
    """Return the rows of both roles, and how histories are read with them."""
    content, split = lab.shop.content, lab.shop.split
    known = space.factorise(split.train)
    ready = ordered(space.block(content), known, space.map, space.dial, space.basis)
    today, _, added = relearn(replace(space, dims=(dim,)), content, known, split)
    return fused(*ready, known.support, space.dial, added), today.recency


def _aligned(lab: Lab, space: ItemSpace, dim: int) -> Roles:
    rows, split, dims = space.block(lab.shop.content), lab.shop.split, (dim,)
    judge = validation_judge(split, dims, Looks(None, expected=1), seed=space.seed)
    head = train_head(replace(space, dims=dims), rows, split.train, judge.faded(space.recency))
    return head(rows), head(rows)
