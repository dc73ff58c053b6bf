"""Figures of a space on held-out targets, beside the floors that any vectors must beat.

All of it is consumer A (consumer.py): full ranking, mid-rank ties, seen items masked and not.
Floors are tuned on validation, like the vectors. It knows row numbers, not items.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from alignment.collaborative import Collaborative
from alignment.consumer import (
    Floats,
    Score,
    Trial,
    blocks,
    by_cosine,
    figures,
    rank,
    trial,
)
from alignment.fit import Progress, fit
from alignment.floors import BOUNDED, Ranked, baskets, behaviour_floors
from alignment.fuse import Residuals
from alignment.interactions import Ints, Sequences, Split, playing_cold
from alignment.space import ItemSpace, Views
from alignment.whiten import MODALITIES, Bits, Content, Encoded
from matryoshka.prefix import Vectors

MAX_USERS = 10_000
HELD_OUT = 1000  # added to the seed: other items than those that the reach of new ones is chosen by
Roles = tuple[Vectors, Vectors]


def report(
    space: ItemSpace,
    content: Content,
    split: Split,
    *,
    dims: Sequence[int],
    seed: int,
    evidence: Collaborative | None = None,
    residuals: Residuals | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """One row per vectors, dim, slice and masking on the test targets of at most MAX_USERS users.

    space: fitted on `split`; evidence, residuals: those of split.train, learnt anew when left out.
    The cold slice holds a tenth of the items out of everything that learns from behaviour: a second
    space is fitted with the choices of the first, and their targets are ranked among all items and,
    as "within cold", among themselves.
    """

    def tell(done: int, what: str) -> None:
        if progress:
            progress(done, 4, what)

    tell(0, "ranking for the floors")
    cases = trial(split, on="test", max_users=MAX_USERS, seed=seed)
    found = behaviour_floors(split, cases, dims=dims, seed=seed, grid=BOUNDED)
    tell(1, "ranking with the vectors")
    known = evidence or space.factorise(split.train)
    found += ranked(
        space.views(content, known, residuals or space.learn(content, known, split.train)),
        cases.faded(space.recency),
        dims,
    )
    rows = _rows(found, "warm")
    tell(2, "fitting without the cold items")
    held = held_out(len(content), seed=seed)
    _, views = published(content, without(split, held), dims=space.dims, seed=seed, like=space)
    tell(3, "ranking cold items")
    cold = cold_trials(split, held, max_users=MAX_USERS, seed=seed).cold
    cold = cold.faded(space.recency)
    rows += _rows(ranked(views, cold, dims), "cold")
    rows += _rows(ranked(views, cold, dims, among=held), "within cold")
    tell(4, "measured")
    return rows


def published(
    content: Content,
    split: Split,
    *,
    dims: Sequence[int],
    seed: int,
    like: ItemSpace | None = None,
) -> tuple[ItemSpace, Views]:
    """Fit a space to a split and make the vectors that its training part allows.

    like: a space whose choices are taken over.
    """
    space, known, residuals = fit(content, split, dims=dims, seed=seed, like=like)
    return space, space.views(content, known, residuals)


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


def held_out(n: int, *, seed: int) -> Bits:
    """Draw the items to judge new items by, bool [n]: not those that a fit of this seed draws."""
    return playing_cold(n, seed=HELD_OUT + seed)


def without(split: Split, held: Bits) -> Split:
    """Return the split as if the held items did not exist yet."""
    stay = ~(held[split.validation] | held[split.test])
    return Split(
        split.train.keep(~held[split.train.items]),
        split.users[stay],
        split.validation[stay],
        split.test[stay],
    )


@dataclass(frozen=True, slots=True)
class ColdTrials:
    """The users whose test target is held out, and all others; no history has a held item."""

    cold: Trial
    warm: Trial


def cold_trials(
    split: Split, held: Bits, *, max_users: int | None = None, seed: int = 0
) -> ColdTrials:
    """Set the test targets behind histories without the held items, a sample above `max_users`."""
    every = trial(split, on="test").without(held)
    found: list[Trial] = []
    for users in (np.flatnonzero(held[every.targets]), np.flatnonzero(~held[every.targets])):
        if max_users is not None and len(users) > max_users:
            users = np.sort(np.random.default_rng(seed).choice(users, max_users, replace=False))
        found.append(every.only(users))
    return ColdTrials(*found)


def share_in_top(score: Score, cases: Trial, held: Bits, *, k: int = 10) -> float:
    """Share of held items in the users' k best; fair is their share of the catalogue."""
    k = min(k, len(held))
    counts = [
        np.count_nonzero(held[np.argpartition(-score(cases.history[rows]), k - 1, axis=1)[:, :k]])
        for rows in blocks(cases)
    ]
    return sum(counts) / max(1, k * len(cases))


def only(content: Content, modality: str) -> Content:
    """Return the same items as if they had but one modality."""
    rest = {name: Encoded.none(len(content)) for name in MODALITIES if name != modality}
    return replace(content, **rest)


def lacking(content: Content, modality: str, gone: Bits) -> Content:
    """Return the same items, of which the marked ones do not have the modality."""
    vectors, has = getattr(content, modality)
    return replace(content, **{modality: Encoded(vectors, has & ~gone)})


def together(seq: Sequences, items: Ints, *, most: int = 20, least: int = 3) -> list[Ints]:
    """Return for each of `items` the places in `items` of those most often taken by its users.

    By the cosine between the sets of users, `most` at most, of those with `least` users in common.
    All events count: it is what vectors are asked for, and nothing learns from it.
    """
    sets = baskets(seq, most=seq.longest)[:, items]
    common = (sets.T @ sets).toarray()
    sizes = np.sqrt(np.maximum(common.diagonal(), 1))
    near = np.where(common >= least, common / sizes[:, None] / sizes, 0)
    np.fill_diagonal(near, 0)
    best = np.argsort(-near, axis=1, kind="stable")[:, :most]
    return [row[near[item, row] > 0] for item, row in enumerate(best)]


def recall_together(vectors: Vectors, wanted: Sequence[Ints], *, k: int = 50) -> Floats:
    """Share of each row's `wanted` rows that are among its k nearest; only rows that want any."""
    near = vectors @ vectors.T
    np.fill_diagonal(near, -np.inf)
    nearest = np.argsort(-near, axis=1, kind="stable")[:, :k]
    shares = [np.isin(w, n).mean() for w, n in zip(wanted, nearest, strict=True) if len(w)]
    return np.array(shares, dtype=np.float64)


class Version(NamedTuple):
    """Vectors of all items by role, and how fast the histories that they are read with fade."""

    context: Vectors
    target: Vectors
    recency: float

    @classmethod
    def of(cls, space: ItemSpace, views: Views) -> "Version":
        """Return the fused vectors that a space made, read as it reads."""
        return cls(views.fused_context, views.fused_target, space.recency)


def cross_version(older: Version, newer: Version, cases: Trial, *, dim: int) -> dict[str, float]:
    """R@10 of histories read with one version against candidates of another, same rows in both.

    "ratio" is old users x new items over old x old: 1 when a consumer of the old version loses
    nothing by reading the new one, and where it had nothing to lose.
    """
    versions = {"old": older, "new": newer}

    def recall(user: Version, item: Version) -> float:
        score = by_cosine(user.context, item.target, dim=dim)
        return figures(rank(score, cases.faded(user.recency)).masked)["R@10"]

    recalls = {
        f"{user} x {item}": recall(versions[user], versions[item])
        for user in versions
        for item in versions
    }
    old = recalls["old x old"]
    return recalls | {"ratio": recalls["old x new"] / old if old else 1.0}
