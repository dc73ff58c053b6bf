"""The floors that any vectors must beat, each the best of its kind on validation.

Popularity, what follows what as counts and as factors, item-kNN, and content as its encoder gave
it. It knows row numbers and arrays; which floors a table shows is decided by who calls.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from alignment.choose import BACKWARD, BALANCES, RECENCIES, SINGULAR_POWERS, WINDOWS
from alignment.collaborative import Recipe, balanced, covisits, singular
from alignment.consumer import Matrix, Ranks, Score, Trial, by_cosine, figures, rank, trial
from alignment.interactions import Ints, Sequences, Split
from alignment.whiten import MODALITIES, Bits, Content, whitening
from matryoshka.prefix import Vectors

MAX_BASKET = 500
WHITENED = {"pca": 0.0, "white": 1.0}
Count = Callable[[], Matrix]


class Ranked(NamedTuple):
    """The ranks that something called `vectors` gave the targets; dim: None if it has none."""

    vectors: str
    dim: int | None
    ranks: Ranks


@dataclass(frozen=True, slots=True)
class Grid:
    """What is tried, and on how many validation users at most: all that our vectors may try.

    Of the counts the `factorised` best are factorised too; by default all, since the best to
    multiply with are not the best to factorise. powers: of the singular values.
    """

    windows: tuple[tuple[int, float], ...] = ((5, 0.5), *WINDOWS)  # with their decay
    backward: tuple[float, ...] = BACKWARD
    balances: tuple[float, ...] = (0.0, *BALANCES)
    powers: tuple[float, ...] = SINGULAR_POWERS
    recencies: tuple[float, ...] = (0.4, *RECENCIES)
    factorised: int | None = None
    users: int = 5000

    @property
    def recipes(self) -> list[Recipe]:
        """Every way to count that is tried."""
        ways = product(self.windows, self.backward, self.balances)
        return [Recipe(w, decay=d, backward=back, balance=b) for (w, d), back, b in ways]


FULL = Grid()
BOUNDED = Grid(
    windows=((5, 1.0), (20, 1.0)),
    backward=(0.0,),
    balances=(0.0, 0.5),
    powers=(0.5,),
    recencies=RECENCIES,
    factorised=1,
    users=2000,
)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to score histories that fade by `recency` (1: as a set), and its validation R@20."""

    score: Score
    recency: float
    value: float

    def __call__(self, cases: Trial) -> Ranks:
        """Rank for the users of a trial."""
        return rank(self.score, _fading(cases, self.recency))


def behaviour_floors(
    split: Split, cases: Trial, *, dims: Sequence[int], seed: int, grid: Grid = FULL
) -> list[Ranked]:
    """Rank for `cases` by popularity, transition counts, their factors at every dim, and item-kNN.

    Masked R@20 on validation decides.
    """
    tuning = trial(split, on="validation", max_users=grid.users, seed=seed)
    support = split.train.support.astype(np.float32)
    popularity = rank(lambda h: np.tile(support, (h.shape[0], 1)), cases)
    (best, recency), ways = _ways(split.train, tuning, grid)
    knn = _tuned(_by_counts(neighbourhood(split.train)), tuning, (*grid.recencies, 1.0))
    return [
        Ranked("popularity", None, popularity),
        Ranked("transitions", None, rank(_by_counts(best()), cases.faded(recency))),
        *_factorised(ways, cases, tuning, grid, dims=dims, seed=seed),
        Ranked("item_knn", None, knn(cases)),
    ]


def _ways(
    seq: Sequences, tuning: Trial, grid: Grid
) -> tuple[tuple[Count, float], list[tuple[Count, float]]]:
    """Count in every way; return how to again and the recency: the best, and those to factorise.

    Ways of one window follow each other, so that it is counted once, and one at a time is held.
    """

    @lru_cache(maxsize=1)
    def counted(window: int, decay: float) -> Matrix:
        return covisits(seq, window=window, decay=decay)

    def count(recipe: Recipe) -> Matrix:
        return balanced(counted(recipe.window, recipe.decay), recipe)

    found: list[tuple[float, Count, float]] = []
    for recipe in grid.recipes:
        way = _tuned(_by_counts(count(recipe)), tuning, grid.recencies)
        found.append((way.value, partial(count, recipe), way.recency))
    ranked = sorted(range(len(found)), key=lambda k: -found[k][0])  # the first of equals in front
    return found[ranked[0]][1:], [found[k][1:] for k in sorted(ranked[: grid.factorised])]


def _factorised(
    counts: list[tuple[Count, float]],
    cases: Trial,
    tuning: Trial,
    grid: Grid,
    *,
    dims: Sequence[int],
    seed: int,
) -> list[Ranked]:
    """Rank by the best factors at every dim: of all counts and powers, by unit rows or as they are.

    They are found as their counts are read, and then another recency may be better.
    """
    best: dict[int, Way] = {}
    for count, recency in counts:
        u, s, v = singular(count(), max(dims), seed=seed)
        for dim, power in product(dims, grid.powers):
            scale = np.power(s[:dim], power, dtype=np.float32)
            context, target = (part[:, :dim] * scale for part in (u, v))
            scores = [by_product(context, target)]
            if len(s):  # a log without pairs has no factors
                scores.append(by_cosine(context, target, dim=context.shape[1]))
            ways = [_tuned(score, tuning, (recency,)) for score in scores]
            best[dim] = _best([*([best[dim]] if dim in best else []), *ways])
    found = {dim: _tuned(way.score, tuning, grid.recencies) for dim, way in best.items()}
    return [Ranked("transitions_svd", dim, found[dim](cases)) for dim in dims]


def content_floors(content: Content, cases: Trial, *, dims: Sequence[int]) -> list[Ranked]:
    """Rank by each modality as its encoder gave it, and by prefixes of its PCA, scaled and not.

    Names are text_raw (at full width), text_pca and text_white, of other modalities alike. Items
    without the modality score 0; a dim that a modality does not have has no row.
    """
    found: list[Ranked] = []
    for name, encoded in zip(MODALITIES, content.parts, strict=True):
        if not encoded.has.any():
            continue
        raw = np.where(encoded.has[:, None], encoded.vectors, 0).astype(np.float32)
        width = raw.shape[1]
        found.append(Ranked(f"{name}_raw", width, _cosine(raw, cases, dim=width)))
        directions = whitening(encoded.vectors[encoded.has])
        for kind, power in WHITENED.items():
            rows = replace(directions, power=power).where(encoded)
            found += [
                Ranked(f"{name}_{kind}", dim, _cosine(rows, cases, dim=dim))
                for dim in dims
                if dim <= rows.shape[1]
            ]
    return found


def _cosine(rows: Vectors, cases: Trial, *, dim: int) -> Ranks:
    return rank(by_cosine(rows, rows, dim=dim), cases)


def _tuned(score: Score, tuning: Trial, recencies: Sequence[float]) -> Way:
    """Choose how fast histories fade."""
    return _best([Way(score, r, _value(score, _fading(tuning, r))) for r in recencies])


def _best(ways: Sequence[Way]) -> Way:
    return max(ways, key=lambda way: way.value)  # the first of equals


def _value(score: Score, tuning: Trial) -> float:
    return figures(rank(score, tuning).masked)["R@20"]


def _fading(cases: Trial, recency: float) -> Trial:
    if recency == 1:
        return Trial(cases.seen, cases.seen, cases.targets)
    return cases.faded(recency)


def _by_counts(matrix: Matrix) -> Score:
    return lambda histories: (histories @ matrix).toarray()


def by_product(context: Vectors, target: Vectors) -> Score:
    """Score by inner products of rows of any length."""
    return lambda histories: (histories @ context) @ target.T


def neighbourhood(seq: Sequences) -> Matrix:
    """Cosine between the sets of users of two items, over each user's last MAX_BASKET events."""
    sets = baskets(seq, most=MAX_BASKET)
    lengths = np.sqrt(np.asarray(sets.sum(axis=0)).ravel())
    scaled: Matrix = sets @ sparse.diags(1 / np.maximum(lengths, 1))
    similar = (scaled.T @ scaled).tocsr()
    similar.setdiag(0)
    return similar.astype(np.float32)


def baskets(seq: Sequences, *, most: int) -> Matrix:
    """Who has what among the last `most` events of each user: 0 or 1, float32 [users, items]."""
    recent = seq.indptr[1:][seq.users] - np.arange(len(seq.items)) <= most
    ones = np.ones(np.count_nonzero(recent), dtype=np.float32)
    shape = seq.n_users, seq.n_items
    sets: Matrix = sparse.csr_matrix((ones, (seq.users[recent], seq.items[recent])), shape=shape)
    sets.data[:] = 1
    return sets


def ascending_share(seq: Sequences, order: Ints) -> float:
    """Share of neighbours in a user's sequence that ascend in `order`, int [items]; .5 by chance.

    The Amazon files order equal days by item id, which makes a sequence model look better than it
    is. Neighbours of one rank do not count; without any it is .5.
    """
    rank_of = np.asarray(order)[seq.items]
    step = np.diff(rank_of)[seq.users[:-1] == seq.users[1:]]
    steps = np.count_nonzero(step)
    return np.count_nonzero(step > 0) / steps if steps else 0.5


def descending_last_pair(split: Split, order: NDArray[np.integer]) -> Bits:
    """Mark the evaluated users whose test target comes before their last history item in `order`.

    What an order of ids gives away cannot help there.
    """
    rank_of = np.asarray(order)
    return rank_of[split.test] < rank_of[split.validation]
