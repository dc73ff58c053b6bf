"""The floors that any vectors must beat, each the best of its kind on validation.

Popularity, what follows what as counts and as factors, item-kNN, and content as its encoder gave
it. What ranks best without seen items need not rank best with them, so each floor is chosen for
both. It knows row numbers and arrays; which floors a table shows is decided by who calls.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain, product
from typing import NamedTuple

import numpy as np
from scipy import sparse

from alignment.choose import BACKWARD, BALANCES, RECENCIES, SINGULAR_POWERS, WINDOWS
from alignment.collaborative import Recipe, balanced, covisits, singular
from alignment.consumer import Matrix, Ranks, Score, Trial, by_cosine, figures, rank, trial
from alignment.interactions import Sequences, Split
from alignment.whiten import MODALITIES, Content, whitening
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

    Of the counts the `factorised` best, with seen items and without, are factorised too; by default
    all, since the best to multiply with are not the best to factorise. powers: of singular values.
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
    backward=(0.0, 0.5),
    balances=(0.0, 0.5),
    powers=(0.5,),
    recencies=RECENCIES,
    factorised=1,
    users=2000,
)


class Value(NamedTuple):
    """What validation says of a ranking with seen items, as N@10, and without, as R@20."""

    unmasked: float
    masked: float

    @classmethod
    def of(cls, ranks: Ranks) -> "Value":
        """Judge ranks."""
        return cls(figures(ranks.unmasked)["N@10"], figures(ranks.masked)["R@20"])


@dataclass(frozen=True, slots=True)
class Way:
    """One way to score histories that fade by `recency` (1: as a set), and what it is worth."""

    score: Callable[[], Score]
    recency: float
    value: Value

    def __call__(self, cases: Trial) -> Ranks:
        """Rank for the users of a trial."""
        return rank(self.score(), _fading(cases, self.recency))


class Best(NamedTuple):
    """The best way to rank with seen items, and without them."""

    unmasked: Way
    masked: Way

    @classmethod
    def of(cls, ways: Iterable[Way]) -> "Best":
        """Pick them, the first of equals."""
        ways = list(ways)
        return cls(
            max(ways, key=lambda way: way.value.unmasked),
            max(ways, key=lambda way: way.value.masked),
        )

    def __call__(self, cases: Trial) -> Ranks:
        """Rank for the users of a trial, each kind in the way that is best for it."""
        with_seen = self.unmasked(cases)
        without = with_seen if self.masked == self.unmasked else self.masked(cases)
        return Ranks(with_seen.unmasked, without.masked)


def behaviour_floors(
    split: Split, cases: Trial, *, dims: Sequence[int], seed: int, grid: Grid = FULL
) -> list[Ranked]:
    """Rank for `cases` by popularity, transition counts, their factors at every dim, and item-kNN.

    On validation N@10 decides how seen items are ranked too, and R@20 how without them.
    """
    tuning = trial(split, on="validation", max_users=grid.users, seed=seed)
    support = split.train.support.astype(np.float32)
    popularity = rank(lambda h: np.tile(support, (h.shape[0], 1)), cases)
    transitions = _transitions(split.train, tuning, grid)
    near = _by_counts(neighbourhood(split.train))
    item_knn = Best.of(_faded(lambda: near, tuning, (*grid.recencies, 1.0)))
    return [
        Ranked("popularity", None, popularity),
        Ranked("transitions", None, Best.of(chain(*transitions.values()))(cases)),
        *_factorised(transitions, cases, tuning, grid, dims=dims, seed=seed),
        Ranked("item_knn", None, item_knn(cases)),
    ]


def _transitions(seq: Sequences, tuning: Trial, grid: Grid) -> dict[Count, Best]:
    """Count in every way, and say how each is best read.

    Ways of one window follow each other, so that it is counted once, and one at a time is held.
    """

    @lru_cache(maxsize=1)
    def counted(window: int, decay: float) -> Matrix:
        return covisits(seq, window=window, decay=decay)

    def count(recipe: Recipe) -> Matrix:
        return balanced(counted(recipe.window, recipe.decay), recipe)

    def read(count: Count) -> Best:
        def score() -> Score:
            return _by_counts(count())

        return Best.of(_faded(score, tuning, grid.recencies))

    return {each: read(each) for each in (partial(count, recipe) for recipe in grid.recipes)}


def _factorised(
    transitions: dict[Count, Best],
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
    best: dict[int, Best] = {}
    for count in _foremost(transitions, grid.factorised):
        recencies = sorted({way.recency for way in transitions[count]})
        u, s, v = singular(count(), max(dims), seed=seed)
        for dim, power in product(dims, grid.powers):
            scale = np.power(s[:dim], power, dtype=np.float32)
            context, target = (part[:, :dim] * scale for part in (u, v))
            scores = [by_product(context, target)]
            if len(s):  # a log without pairs has no factors
                scores.append(by_cosine(context, target, dim=context.shape[1]))
            ways = [way for score in scores for way in _faded(_always(score), tuning, recencies)]
            best[dim] = Best.of([*best.get(dim, ()), *ways])

    def faded(two: Best) -> Best:
        scores = dict.fromkeys(way.score for way in two)  # one, where it is the best for both
        return Best.of(way for score in scores for way in _faded(score, tuning, grid.recencies))

    return [Ranked("transitions_svd", dim, faded(best[dim])(cases)) for dim in dims]


def _foremost(transitions: dict[Count, Best], most: int | None) -> list[Count]:
    """Return the best counts, in their order: as many with seen items, and as many without."""

    def worth(kind: int, count: Count) -> float:
        return transitions[count][kind].value[kind]

    kinds = range(len(Value._fields))
    chosen = {
        count
        for kind in kinds
        for count in sorted(transitions, key=partial(worth, kind), reverse=True)[:most]
    }
    return [count for count in transitions if count in chosen]


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


def _faded(score: Callable[[], Score], tuning: Trial, recencies: Sequence[float]) -> Iterator[Way]:
    """Judge a score of histories that fade by each recency."""
    made = score()
    for recency in recencies:
        yield Way(score, recency, Value.of(rank(made, _fading(tuning, recency))))


def _always(score: Score) -> Callable[[], Score]:
    return lambda: score


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
