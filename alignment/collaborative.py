"""Collaborative vectors: a directed, time-decayed co-visit matrix, factorised.

An item as history (context) is not the item as candidate (target), so each item has two vectors.
The tables of other recommenders (alternatives.py) can stand in their place, equal in both roles.
It knows sequences of row numbers; what an item is or says, it does not.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from alignment import limits
from alignment.alternatives import TABLES
from alignment.interactions import Sequences
from alignment.limits import Weights
from matryoshka.prefix import Vectors, unit

EXACT_BELOW = 640  # items; a dense decomposition is as fast there, and exact
OVERSAMPLING = 32
EVENTS_AT_ONCE = 1 << 19  # whose pairs are counted together: some hundred MB
TOGETHER = 16  # columns that are multiplied at once
CORES = 8  # which do so side by side, at most
NOISE = 1e-5  # of the longest row: what a decomposition in float32 leaves of a row of zeros
METHODS = ("covisits", *TABLES)
Matrix = Any  # scipy.sparse.csr_matrix, which has no types
Floats = NDArray[np.floating[Any]]
Triples = tuple[Floats, Floats, Floats]  # u [n, r], s [r], v [n, r]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How co-visits are counted, balanced and factorised: all of it chosen on validation.

    method: one of METHODS, from the settings; recency: an event of a history weighs recency^age for
    whoever reads item vectors (consumer.py); the rest is about "covisits" only.
    window, decay: an item counts gap^-decay for the next `window` items of its user;
    backward: what it counts for the other direction (1: symmetric);
    balance: counts are divided by (row sum * column sum)^balance; power: of the singular values.
    """

    window: int = 20
    decay: float = 0.5
    backward: float = 0.5
    balance: float = 0.5
    power: float = 0.5
    method: str = "covisits"
    recency: float = 0.6


DEFAULT_RECIPE = Recipe()


@dataclass(frozen=True, slots=True)
class Collaborative:
    """Unit rows [n, dim] per role for items with support (events) above 0, zero rows for others."""

    context: Vectors
    target: Vectors
    support: NDArray[np.int32]


def covisits(
    seq: Sequences, *, window: int, decay: float, weights: Weights | None = None
) -> Matrix:
    """Count how often item j follows item i within `window` steps of one user, gap^-decay each.

    A user adds PER_PAIR (limits.py) at most to a count, and to all of them no more than CAP events
    can; weights: float32 [n_users] in 0..1, what each user's share is multiplied by.
    """
    weights = limits.checked(weights, seq.n_users)
    most = limits.CAP * sum(gap**-decay for gap in range(1, window + 1))
    counted: list[Matrix] = [sparse.csr_matrix((seq.n_items, seq.n_items), dtype=np.float32)]
    for users in _blocks(seq):
        counted.append(_counted(_only(seq, users), weights[users], window, decay, most))
        while len(counted) > 1 and counted[-2].nnz < 2 * counted[-1].nnz:
            counted[-2:] = [counted[-2] + counted[-1]]  # like sizes meet: no long sum of short ones
    return sum(reversed(counted[:-1]), start=counted[-1])


def _blocks(seq: Sequences) -> Iterator[slice]:
    """Cut the users into runs of about EVENTS_AT_ONCE events."""
    steps = np.arange(EVENTS_AT_ONCE, len(seq.items), EVENTS_AT_ONCE)
    cuts = np.unique([0, *np.searchsorted(seq.indptr, steps), seq.n_users])
    yield from (slice(start, end) for start, end in pairwise(cuts))


def _only(seq: Sequences, users: slice) -> Sequences:
    indptr = seq.indptr[users.start : users.stop + 1]
    events = slice(indptr[0], indptr[-1])
    return Sequences(indptr - indptr[0], seq.items[events], seq.times[events], seq.n_items)


def _counted(seq: Sequences, weights: Weights, window: int, decay: float, most: float) -> Matrix:
    """Count first pairs of one user's items, bounded there, and then pairs of items."""
    kinds, kind = np.unique(seq.users * seq.n_items + seq.items, return_inverse=True)
    owner, item = np.divmod(kinds, seq.n_items)
    own = _following(seq, kind.astype(np.int32), len(kinds), window, decay)
    own.data = np.minimum(own.data, limits.PER_PAIR)
    totals = np.bincount(owner, np.asarray(own.sum(axis=1)).ravel(), minlength=seq.n_users)
    scale, many = (weights * limits.within(totals, most))[owner], np.diff(own.indptr)
    own.data *= np.repeat(scale, many).astype(np.float32)
    item = item.astype(np.int32)
    places = np.repeat(item, many), item[own.indices]
    return sparse.csr_matrix((own.data, places), shape=(seq.n_items, seq.n_items))


def _following(
    seq: Sequences, kind: NDArray[np.int32], kinds: int, window: int, decay: float
) -> Matrix:
    """Sum gap^-decay over a user's events of one kind after another, [kinds, kinds]."""
    users, left, right = seq.users, [kind[:0]], [kind[:0]]
    values = [np.zeros(0, np.float32)]
    for gap in range(1, min(window, seq.longest - 1) + 1):
        near = np.flatnonzero((users[:-gap] == users[gap:]) & (kind[:-gap] != kind[gap:]))
        left.append(kind[near])
        right.append(kind[near + gap])
        values.append(np.full(len(near), gap**-decay, np.float32))
    places = np.concatenate(left), np.concatenate(right)
    return sparse.csr_matrix((np.concatenate(values), places), shape=(kinds, kinds))


def balanced(counts: Matrix, recipe: Recipe) -> Matrix:
    """Mix the directions and balance the counts as the recipe says."""
    other = counts.T.tocsr()
    other.data *= recipe.backward
    matrix = counts + other if recipe.backward else counts.copy()
    rows, columns = (_inverse(matrix.sum(axis=axis), recipe.balance) for axis in (1, 0))
    matrix.data *= np.repeat(rows, np.diff(matrix.indptr))
    matrix.data *= columns[matrix.indices]
    return matrix


def _inverse(sums: Floats, power: float) -> Vectors:
    flat = np.asarray(sums, dtype=np.float64).ravel()
    return np.where(flat > 0, np.where(flat > 0, flat, 1) ** -power, 0).astype(np.float32)


def factorise(
    seq: Sequences,
    *,
    dim: int,
    seed: int,
    recipe: Recipe = DEFAULT_RECIPE,
    weights: Weights | None = None,
) -> Collaborative:
    """Factorise behaviour by the recipe's method: strongest coordinates first, unit rows.

    weights: float32 [n_users] in 0..1, how far each user is believed (LoRec); an item that only
    users of weight 0 touched has no support. ValueError for a method that is none of METHODS.
    """
    weights = limits.checked(weights, seq.n_users)
    support = limits.support(seq, weights)
    if recipe.method in TABLES:
        table = TABLES[recipe.method](seq, dim, seed, weights)
        rows = _rows(_strongest_first(table)[:, :dim], support, dim)
        return Collaborative(rows, rows, support)
    if recipe.method != "covisits":
        raise ValueError(f"no method {recipe.method!r}: choose one of {', '.join(METHODS)}")
    counts = covisits(seq, window=recipe.window, decay=recipe.decay, weights=weights)
    triples = singular(balanced(counts, recipe), dim, seed=seed)
    return from_triples(triples, support, dim=dim, power=recipe.power)


def _strongest_first(table: Floats) -> Floats:
    """Rotate the rows of a table so that their energy comes first."""
    u, s, v = _decomposed(table)
    return u * s * np.where(v[np.abs(v).argmax(axis=0), np.arange(len(s))] < 0, -1, 1)


def from_triples(
    triples: Triples, support: NDArray[np.int32], *, dim: int, power: float
) -> Collaborative:
    """Make unit rows of u * s^power and v * s^power.

    An item that never was beside another one, or never before one, has no direction of its own in
    that role and gets the mean.
    """
    u, s, v = triples
    scale = s**power
    return Collaborative(_rows(u * scale, support, dim), _rows(v * scale, support, dim), support)


def _rows(factors: Floats, support: NDArray[np.int32], dim: int) -> Vectors:
    rows = np.zeros((len(support), dim), dtype=np.float32)
    rows[:, : factors.shape[1]] = factors
    lengths = np.linalg.norm(rows, axis=1)
    rows[lengths < NOISE * lengths.max(initial=0)] = 0
    rows = unit(rows)
    lonely = (support > 0) & ~rows.any(axis=1)
    if lonely.any():
        mean = rows.sum(axis=0, keepdims=True)
        rows[lonely] = unit(mean if mean.any() else np.eye(1, dim))
    rows[support == 0] = 0
    return rows


def singular(matrix: Matrix, k: int, *, seed: int, rounds: int = 4) -> Triples:
    """Find the k leading singular triples of a square matrix, fewer if its rank is less.

    `rounds` of power iteration refine a random start where the matrix is large; signs are fixed.
    """
    n = matrix.shape[0]
    if n <= EXACT_BELOW:
        u, s, vt = np.linalg.svd(matrix.toarray())
    else:
        u, s, vt = _randomised(matrix, min(k + OVERSAMPLING, n), seed, rounds)
    r = min(k, int(np.count_nonzero(s > 1e-6 * max(s.max(initial=0), 1e-30))))
    u, s, v = u[:, :r], s[:r], vt[:r].T
    sign = np.where(v[np.abs(v).argmax(axis=0), np.arange(r)] < 0, -1, 1).astype(np.float32)
    return u * sign, s, v * sign


def _randomised(matrix: Matrix, k: int, seed: int, rounds: int) -> Triples:
    start = np.random.default_rng(seed).standard_normal((matrix.shape[1], k), dtype=np.float32)
    q = _orthonormal(_product(matrix, start))
    for _ in range(rounds):
        q = _orthonormal(_product(matrix, _orthonormal(_product(matrix.T, q))))
    v, s, u = _decomposed(_product(matrix.T, q))
    return (q @ u).astype(np.float32), s, v.T


def _product(matrix: Matrix, rows: Floats) -> Floats:
    """Multiply a few columns at a time, which fit a cache of 100,000 rows, on up to CORES cores.

    Each column is summed in the same order whoever does it, so cores change no digit.
    """
    found = np.empty((matrix.shape[0], rows.shape[1]), np.float32)

    def multiply(start: int) -> None:
        some = slice(start, start + TOGETHER)
        found[:, some] = matrix @ np.ascontiguousarray(rows[:, some])

    with ThreadPoolExecutor(min(CORES, _cores())) as pool:
        for _ in pool.map(multiply, range(0, rows.shape[1], TOGETHER)):
            pass
    return found


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _orthonormal(rows: Floats) -> Vectors:
    """Return an orthonormal basis of the columns, several times faster than by a QR."""
    return _decomposed(rows)[0]


def _decomposed(rows: Floats) -> Triples:
    """Decompose a tall [n, k] matrix by way of its [k, k] Gram matrix, down to 1e-6 of its norm."""
    tall = rows.astype(np.float64)
    values, vectors = np.linalg.eigh(tall.T @ tall)
    kept = np.flatnonzero(values > 1e-12 * max(values.max(initial=0), 1e-30))[::-1]
    s, v = np.sqrt(values[kept]), vectors[:, kept]
    return (tall @ (v / s)).astype(np.float32), s.astype(np.float32), v
