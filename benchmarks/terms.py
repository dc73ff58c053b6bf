"""Each part of how fused and aligned vectors are made, on and off: recall on validation targets.

One seed, in the space that was fitted with it; what a row changes is made anew, all else stays. It
is where choices were made, so no figure here is a claim.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from alignment import aligned, residuals
from alignment.consumer import by_cosine, rank, trial
from alignment.evaluate import Roles
from alignment.floors import Ranked
from alignment.fuse import Dial, Residuals, compacted, fused, ordered
from alignment.reading import Schedule
from alignment.residuals import DEFAULT_SCHEDULE
from alignment.space import ItemSpace
from benchmarks.lab import Lab, Rows
from benchmarks.stages import sources

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


def terms(lab: Lab) -> Rows:
    """Train with each part changed: fused for as long as was released, heads to the end."""
    space = lab.fitted(lab.shop, lab.seeds[0])[0]
    rows: Rows = []
    for vectors, what, change, make in _tried(lab, space):
        found = lab.stages.keep_ranks(
            "terms",
            (sources(), lab.shop.content, lab.shop.split, space.basis_id, vectors, change),
            lambda vectors=vectors, make=make: _ranked(lab, space, vectors, make()),
        )
        rows += [row | {"split": "validation"} for row in lab.rows([found], what)]
    return rows


def _tried(lab: Lab, space: ItemSpace) -> Iterator[tuple[str, str, object, Callable[[], Roles]]]:
    """Yield which vectors, what is changed about them, all that it means, and how to make them."""
    for what, schedule in SCHEDULES.items():
        yield "fused", what, schedule, partial(_fused, lab, space, space.dial, schedule)
    for what, news in DIALS.items():
        dial = replace(space.dial, **news)
        yield "fused", what, dial, partial(_fused, lab, space, dial, DEFAULT_SCHEDULE)
    for what, (schedule, decay) in HEADS.items():
        yield "aligned", what, (schedule, decay), partial(_aligned, lab, space, schedule, decay)


def _ranked(lab: Lab, space: ItemSpace, vectors: str, roles: Roles) -> list[Ranked]:
    cases = trial(lab.shop.split, on="validation").faded(space.recency)
    return [Ranked(vectors, dim, rank(by_cosine(*roles, dim=dim), cases)) for dim in lab.shop.dims]


def _aligned(lab: Lab, space: ItemSpace, schedule: Schedule, decay: float) -> Roles:
    rows = space.block(lab.shop.content)
    head = aligned.fit_head(
        rows,
        lab.shop.split.train,
        space.dims,
        recency=space.recency,
        seed=space.seed,
        schedule=schedule,
        decay=decay,
    )
    return head(rows), head(rows)


def _fused(lab: Lab, space: ItemSpace, dial: Dial, schedule: Schedule) -> Roles:
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
        schedule=replace(schedule, steps=min(space.steps, schedule.steps)),
    )
    return fused(*ready, known.support, dial, added)
