"""Figures of a space on held-out targets, beside the floors that any vectors must beat.

All of it is consumer A (consumer.py): full ranking, mid-rank ties, seen items masked and not.
Floors are tuned on validation, like the vectors. It knows row numbers, not items.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignment.cold import cold_trials, held_out, without
from alignment.consumer import Score, Trial, by_cosine, figures, rank, trial
from alignment.fit import Progress, published
from alignment.floors import BOUNDED, Ranked, behaviour_floors
from alignment.improve import Fitted
from alignment.interactions import Split, playing_cold
from alignment.space import Views
from alignment.whiten import Bits, Content
from matryoshka.prefix import Vectors

MAX_USERS = 10_000
Roles = tuple[Vectors, Vectors]


def report(
    fitted: Fitted,
    content: Content,
    split: Split,
    *,
    dims: Sequence[int],
    seed: int,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """One row per vectors, dim, slice and masking on the test targets of at most MAX_USERS users.

    fitted: to split.train. The cold slice holds a tenth of the items out of everything that learns
    from behaviour, less those by which the reach of new ones was chosen: a second space is fitted
    with the choices of the first, and their targets are ranked among all items and, as "within
    cold", among themselves.
    """

    def tell(done: int, what: str) -> None:
        if progress:
            progress(done, 4, what)

    tell(0, "ranking for the floors")
    cases = trial(split, on="test", max_users=MAX_USERS, seed=seed)
    found = behaviour_floors(split, cases, dims=dims, seed=seed, grid=BOUNDED)
    tell(1, "ranking with the vectors")
    space, known, residuals = fitted
    views = space.views(content, known, residuals)
    found += ranked(views, cases.faded(space.recency), dims)
    rows = _rows(found, "warm")
    tell(2, "fitting without the cold items")
    held = held_out(len(content), seed=seed) & ~playing_cold(len(content), seed=space.seed)
    _, views = published(content, without(split, held), dims=space.dims, seed=seed, like=space)
    tell(3, "ranking cold items")
    cold = cold_trials(split, held, max_users=MAX_USERS, seed=seed).cold
    cold = cold.faded(space.recency)
    rows += _rows(ranked(views, cold, dims), "cold")
    rows += _rows(ranked(views, cold, dims, among=held), "within cold")
    tell(4, "measured")
    return rows


def roles_of(views: Views) -> dict[str, Roles]:
    """Return the context and target vectors of every view, which are the same where it has one."""
    return {
        "content": (views.content, views.content),
        "aligned": (views.aligned, views.aligned),
        "collaborative": (views.collaborative_context, views.collaborative_target),
        "fused": (views.fused_context, views.fused_target),
    }


def ranked(
    views: Views, cases: Trial, dims: Sequence[int], *, among: Bits | None = None
) -> list[Ranked]:
    """Rank by every view at every dim; among: the items that compete, by default all."""
    return [
        Ranked(name, dim, rank(within(by_cosine(*roles, dim=dim), among), cases))
        for name, roles in roles_of(views).items()
        for dim in dims
    ]


def within(score: Score, among: Bits | None) -> Score:
    """Score all items but some -inf, so that only those in `among` compete; None: all."""
    return score if among is None else lambda h: np.where(among, score(h), -np.float32(np.inf))


def _rows(found: Sequence[Ranked], slice: str) -> list[dict[str, Any]]:
    return [
        {"split": "test", "slice": slice, "vectors": each.vectors, "dim": each.dim}
        | {"masked": masked}
        | figures(each.ranks.masked if masked else each.ranks.unmasked)
        for each in found
        for masked in (True, False)
    ]
