"""Each part of how fused vectors are made, on and off: recall on the validation targets.

One seed, in the space that was fitted with it; what a row changes is made anew, all else stays. It
is where choices were made, so no figure here is a claim.
"""

from collections.abc import Mapping
from dataclasses import replace

from alignment import residuals
from alignment.consumer import by_cosine, rank, trial
from alignment.floors import Ranked
from alignment.fuse import Dial, Residuals, compacted, fused, ordered
from alignment.residuals import DEFAULT_SCHEDULE, Schedule
from alignment.space import ItemSpace
from benchmarks.lab import Lab, Rows
from benchmarks.stages import sources

PLAIN = replace(DEFAULT_SCHEDULE, steps=0)
SCHEDULES: Mapping[str, Schedule] = {
    "as released": DEFAULT_SCHEDULE,
    "no residuals": PLAIN,
    "the next event only": replace(DEFAULT_SCHEDULE, ahead=0.0),
    "dims drawn evenly": replace(DEFAULT_SCHEDULE, always=0),
    "256 candidates": replace(DEFAULT_SCHEDULE, candidates=256),
    "rate .001": replace(DEFAULT_SCHEDULE, rate=1e-3),
}
DIALS: Mapping[str, Mapping[str, float]] = {
    "content alone": {"share": 1.0},
    "co-visits alone": {"share": 0.0},
    "a third of content": {"share": 0.33},
    "n0 of 3": {"n0": 3.0},
}


def terms(lab: Lab) -> Rows:
    """Train with each part changed, for as many steps as the release was."""
    space = lab.fitted(lab.shop, lab.seeds[0])[0]
    tried = [(what, space.dial, schedule) for what, schedule in SCHEDULES.items()]
    tried += [(what, replace(space.dial, **news), DEFAULT_SCHEDULE) for what, news in DIALS.items()]
    rows: Rows = []
    for what, dial, schedule in tried:
        found = lab.stages.keep_ranks(
            "terms",
            (sources(), lab.shop.content, lab.shop.split, space.basis_id, dial, schedule),
            lambda dial=dial, schedule=schedule: _ranked(lab, space, dial, schedule),
        )
        rows += [row | {"split": "validation"} for row in lab.rows([found], what)]
    return rows


def _ranked(lab: Lab, space: ItemSpace, dial: Dial, schedule: Schedule) -> list[Ranked]:
    """Make the fused vectors of a dial and a schedule, and rank the validation targets by them."""
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
        steps=min(space.steps, schedule.steps),
        schedule=schedule,
    ).residuals
    roles = fused(*ready, known.support, dial, added)
    cases = trial(lab.shop.split, on="validation").faded(space.recency)
    return [Ranked("fused", dim, rank(by_cosine(*roles, dim=dim), cases)) for dim in lab.shop.dims]
