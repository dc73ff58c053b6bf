"""Figures of a space on held-out targets, beside the floors that any vectors must beat.

All of it is consumer A (consumer.py): full ranking, mid-rank ties, seen items masked and not.
Floors are tuned on validation, like the vectors. It knows row numbers, not items.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from alignment.collaborative import Collaborative, Floats, Recipe, balanced, covisits, singular
from alignment.consumer import Matrix, Score, Trial, by_cosine, figures, rank, trial
from alignment.interactions import Sequences, Split
from alignment.space import ItemSpace, Progress, Views, fit
from alignment.whiten import Bits, Content
from matryoshka.prefix import Vectors

MAX_USERS = 10_000
VALIDATION_USERS = 2_000
COLD_SHARE = 0.1
MAX_BASKET = 500
COUNTED = tuple(
    Recipe(window=w, decay=1.0, backward=0.0, balance=b) for w in (5, 20) for b in (0.0, 0.5)
)
Roles = tuple[Vectors, Vectors]


def report(
    space: ItemSpace,
    content: Content,
    split: Split,
    *,
    dims: Sequence[int],
    seed: int,
    evidence: Collaborative | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """One row per vectors, dim, slice and masking on the test targets of at most MAX_USERS users.

    space: fitted on `split`; evidence: that of split.train, factorised anew when left out.
    The cold slice holds a tenth of the items out of everything that learns from behaviour: a second
    space is fitted with the choices of the first, and their targets are ranked among all items.
    """

    def tell(done: int, what: str) -> None:
        if progress:
            progress(done, 4, what)

    tell(0, "ranking for the floors")
    cases = trial(split, on="test", max_users=MAX_USERS, seed=seed)
    rows = _floors(split, cases, dims=dims, seed=seed)
    tell(1, "ranking with the vectors")
    rows += _views(space.views(content, evidence or space.factorise(split.train)), cases, dims)
    rows = [{"slice": "warm"} | row for row in rows]
    tell(2, "fitting without the cold items")
    held = np.random.default_rng(seed).random(len(content)) < COLD_SHARE
    less = without(split, held)
    cold = fit(content, less, dims=space.dims, seed=seed, like=space)
    tell(3, "ranking cold items")
    cases = _cold_cases(split, held, seed=seed)
    views = cold.views(content, cold.factorise(less.train))
    rows += [{"slice": "cold"} | row for row in _views(views, cases, dims)]
    tell(4, "measured")
    return [{"split": "test"} | row for row in rows]


def without(split: Split, held: Bits) -> Split:
    """Return the split as if the held items did not exist yet."""
    stay = ~(held[split.validation] | held[split.test])
    return Split(
        split.train.keep(~held[split.train.items]),
        split.users[stay],
        split.validation[stay],
        split.test[stay],
    )


def cross_version(older: Roles, newer: Roles, cases: Trial, *, dim: int) -> dict[str, float]:
    """R@10 of histories read with one version against candidates of another, same rows in both.

    older, newer: (context, target). "ratio" is old users x new items over old x old: 1 when a
    consumer of the old version loses nothing by reading the new one.
    """
    versions = {"old": older, "new": newer}
    recalls = {
        f"{user} x {item}": figures(
            rank(by_cosine(versions[user][0], versions[item][1], dim=dim), cases).masked
        )["R@10"]
        for user in versions
        for item in versions
    }
    old = recalls["old x old"]
    return recalls | {"ratio": recalls["old x new"] / old if old else 1.0}


def _views(views: Views, cases: Trial, dims: Sequence[int]) -> list[dict[str, Any]]:
    roles = {
        "content": (views.content, views.content),
        "aligned": (views.aligned, views.aligned),
        "collaborative": (views.collaborative_context, views.collaborative_target),
        "fused": (views.fused_context, views.fused_target),
    }
    return [
        row
        for name, (context, target) in roles.items()
        for dim in dims
        for row in _rows(name, dim, by_cosine(context, target, dim=dim), cases)
    ]


def _rows(name: str, dim: int | None, score: Score, cases: Trial) -> list[dict[str, Any]]:
    ranks = rank(score, cases)
    return [
        {"vectors": name, "dim": dim, "masked": masked} | figures(values)
        for masked, values in ((True, ranks.masked), (False, ranks.unmasked))
    ]


def _cold_cases(split: Split, held: Bits, *, seed: int) -> Trial:
    """Users whose test target is held out, with histories of the other items."""
    every = trial(split, on="test")
    users = np.flatnonzero(held[every.targets])
    if len(users) > MAX_USERS:
        users = np.sort(np.random.default_rng(seed).choice(users, MAX_USERS, replace=False))
    some = every.only(users)
    return Trial(
        (some.history @ sparse.diags((~held).astype(np.float32))).tocsr(), some.seen, some.targets
    )


def _floors(split: Split, cases: Trial, *, dims: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Rows of popularity, transition counts, their factors at every dim and item-kNN."""
    tuning = trial(split, on="validation", max_users=VALIDATION_USERS, seed=seed)
    support = split.train.support.astype(np.float32)
    rows = _rows("popularity", None, lambda h: np.tile(support, (h.shape[0], 1)), cases)

    counts = [
        balanced(covisits(split.train, window=recipe.window, decay=recipe.decay), recipe)
        for recipe in COUNTED
    ]
    best = counts[_best([(_by_counts(matrix), tuning) for matrix in counts])]
    rows += _rows("transitions", None, _by_counts(best), cases)

    u, s, v = singular(best, max(dims), seed=seed)
    for dim in dims:
        context, target = (part[:, :dim] * np.sqrt(s[:dim]) for part in (u, v))
        both = [by_cosine(context, target, dim=context.shape[1]), _by_product(context, target)]
        better = both[_best([(score, tuning) for score in both])]
        rows += _rows("transitions_svd", dim, better, cases)

    knn = _by_counts(_neighbourhood(split.train))
    whole = _best([(knn, tuning), (knn, _unordered(tuning))])
    return rows + _rows("item_knn", None, knn, _unordered(cases) if whole else cases)


def _best(candidates: list[tuple[Score, Trial]]) -> int:
    return int(np.argmax([figures(rank(*c).masked)["R@20"] for c in candidates]))


def _by_counts(matrix: Matrix) -> Score:
    return lambda histories: (histories @ matrix).toarray()


def _by_product(context: Floats, target: Floats) -> Score:
    return lambda histories: (histories @ context) @ target.T


def _unordered(cases: Trial) -> Trial:
    """Return the same users with every item they have seen at weight 1."""
    return Trial(cases.seen, cases.seen, cases.targets)


def _neighbourhood(seq: Sequences) -> Matrix:
    """Cosine between the sets of users of two items, over each user's last MAX_BASKET events."""
    recent = seq.indptr[1:][seq.users] - np.arange(len(seq.items)) <= MAX_BASKET
    ones = np.ones(np.count_nonzero(recent), dtype=np.float32)
    shape = seq.n_users, seq.n_items
    sets: Matrix = sparse.csr_matrix((ones, (seq.users[recent], seq.items[recent])), shape=shape)
    sets.data[:] = 1
    lengths = np.sqrt(np.asarray(sets.sum(axis=0)).ravel())
    scaled: Matrix = sets @ sparse.diags(1 / np.maximum(lengths, 1))
    similar = (scaled.T @ scaled).tocsr()
    similar.setdiag(0)
    return similar.astype(np.float32)
