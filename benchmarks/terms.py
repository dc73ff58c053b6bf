"""Each part of how fused and aligned vectors are made, changed alone: recall on validation targets.

One seed, in the space that was fitted with it; what a row changes is made anew, all else stays. It
is where choices were made, so no figure here is a claim.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from alignment import aligned, residuals
from alignment.choose import RECENCIES
from alignment.cold import held_out, without
from alignment.consumer import by_cosine, rank, trial
from alignment.evaluate import Roles
from alignment.floors import Ranked
from alignment.fuse import Dial, Residuals, compacted, fused, ordered
from alignment.reading import Schedule
from alignment.residuals import DEFAULT_SCHEDULE
from alignment.space import ItemSpace
from benchmarks.lab import Lab, Rows, named
from benchmarks.stages import Arrays, packed, sources, unpacked

PLAIN = replace(DEFAULT_SCHEDULE, steps=0)
SCHEDULES: Mapping[str, Schedule] = {
    "as released": DEFAULT_SCHEDULE,
    "no residuals": PLAIN,
    "dims drawn evenly": replace(DEFAULT_SCHEDULE, always=0),
    "1,024 candidates": replace(DEFAULT_SCHEDULE, candidates=1024),
    "rate .001": replace(DEFAULT_SCHEDULE, rate=1e-3),
}
DIALS: Mapping[str, Mapping[str, float]] = {
    "content alone": {"share": 1.0},
    "co-visits alone": {"share": 0.0},
    "half content": {"share": 0.5},
    "n0 of 3": {"n0": 3.0},
}
HEADS: Mapping[str, tuple[Schedule, float]] = {
    "as trained": (aligned.DEFAULT_SCHEDULE, aligned.DECAY),
    "no head": (replace(aligned.DEFAULT_SCHEDULE, steps=0), aligned.DECAY),
    "no decay": (aligned.DEFAULT_SCHEDULE, 0.0),
    "dims drawn evenly": (replace(aligned.DEFAULT_SCHEDULE, always=0), aligned.DECAY),
    "1,024 candidates": (replace(aligned.DEFAULT_SCHEDULE, candidates=1024), aligned.DECAY),
}


NEW = ("as trained", "no head", "no decay")  # heads that new items are looked for with, too


class Trained(NamedTuple):
    """Vectors made with one part changed: which, what is changed, all that it means, and how.

    new: a tenth of the items is kept from the training, and only these are asked for.
    """

    vectors: str
    what: str
    change: object
    space: ItemSpace
    make: Callable[[Lab, ItemSpace], Roles]
    new: bool = False


def terms(lab: Lab) -> Rows:
    """Train with each part changed alone, and rank the validation targets."""
    space = lab.fitted(lab.shop, lab.seeds[0])[0]
    tried = [*_of_fused(space, DEFAULT_SCHEDULE.length(lab.shop.split.train)), *_of_aligned(space)]
    made_from = (
        sources(),
        sources("cold", __name__),
        lab.shop.content,
        lab.shop.split,
        *named(space),
    )
    wanted = [
        ((*made_from, each.vectors, each.change, each.new), partial(_ranked, lab, each))
        for each in tried
    ]
    found = map(unpacked, lab.stages.keep_each("terms", wanted))
    return [
        row | {"split": "validation"}
        for each, ranks in zip(tried, found, strict=True)
        for row in lab.rows([ranks], each.what)
    ]


def _of_fused(space: ItemSpace, whole: int) -> Iterator[Trained]:
    """Change how residuals are trained, the dial, how long is trained, how histories are read."""
    for what, schedule in SCHEDULES.items():
        make = partial(_fused, dial=space.dial, schedule=schedule)
        yield Trained("fused", what, schedule, space, make)
    for what, news in DIALS.items():
        dial = replace(space.dial, **news)
        make = partial(_fused, dial=dial, schedule=DEFAULT_SCHEDULE)
        yield Trained("fused", what, dial, space, make)
    make = partial(_fused, dial=space.dial, schedule=DEFAULT_SCHEDULE)
    yield Trained("fused", _other(space), "spare", replace(space, spare=not space.spare), make)
    for steps in sorted({whole // 4, whole // 2, whole} - {space.steps}):
        yield Trained("fused", f"{steps} steps", steps, replace(space, steps=steps), make)
    for recency in sorted({*RECENCIES} - {space.recency}):
        other = replace(space, recipe=replace(space.recipe, recency=recency))
        yield Trained("fused", f"histories fade by {recency}", other.recipe, other, make)


def _of_aligned(space: ItemSpace) -> Iterator[Trained]:
    """Change how the head is trained."""
    for what, (schedule, decay) in HEADS.items():
        make = partial(_aligned, schedule=schedule, decay=decay)
        yield Trained("aligned", what, (schedule, decay), space, make)
        if what in NEW:
            yield Trained("aligned", f"new items, {what}", (schedule, decay), space, make, new=True)
    make = partial(_aligned, schedule=aligned.DEFAULT_SCHEDULE, decay=aligned.DECAY)
    yield Trained("aligned", _other(space), "spare", replace(space, spare=not space.spare), make)


def _other(space: ItemSpace) -> str:
    """Say what competes where it is the other way round."""
    return "what users have competes" if space.spare else "nothing users have competes"


def _ranked(lab: Lab, tried: Trained) -> Arrays:
    cases = trial(lab.shop.split, on="validation").faded(tried.space.recency)
    if tried.new:
        held = held_out(len(lab.shop.content), seed=tried.space.seed)
        cases = cases.without(held).only(np.flatnonzero(held[cases.targets]))
        lab = replace(lab, shop=replace(lab.shop, split=without(lab.shop.split, held)))
    roles = tried.make(lab, tried.space)
    ranks = {dim: rank(by_cosine(*roles, dim=dim), cases) for dim in lab.shop.dims}
    return packed([Ranked(tried.vectors, dim, found) for dim, found in ranks.items()])


def _aligned(lab: Lab, space: ItemSpace, *, schedule: Schedule, decay: float) -> Roles:
    rows = space.block(lab.shop.content)
    head = aligned.fit_head(
        rows,
        lab.shop.split.train,
        space.dims,
        recency=space.recency,
        seed=space.seed,
        spare=space.spare,
        schedule=schedule,
        decay=decay,
    )
    return head(rows), head(rows)


def _fused(lab: Lab, space: ItemSpace, *, dial: Dial, schedule: Schedule) -> Roles:
    train, rows = lab.shop.split.train, space.block(lab.shop.content)
    known = space.factorise(train)
    basis = compacted(rows, known, space.map, dial, width=space.width)
    ready = ordered(rows, known, space.map, dial, basis)
    added: Residuals = residuals.train(
        *ready,
        train,
        space.dims,
        recency=space.recency,
        dial=dial,
        seed=space.seed,
        spare=space.spare,
        schedule=replace(schedule, steps=min(space.steps, schedule.steps)),
    )
    return fused(*ready, known.support, dial, added)
