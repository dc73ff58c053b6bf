"""Collaborative vectors: a directed, time-decayed co-visit matrix, factorised.

An item as history (context) is not the item as candidate (target), so each item has two vectors.
It knows sequences of row numbers; what an item is or says, it does not.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from alignment.interactions import Sequences
from matryoshka.prefix import Vectors, unit

EXACT_BELOW = 640  # items; a dense decomposition is as fast there, and exact
OVERSAMPLING = 32
Matrix = Any  # scipy.sparse.csr_matrix, which has no types
Floats = NDArray[np.floating[Any]]
Triples = tuple[Floats, Floats, Floats]  # u [n, r], s [r], v [n, r]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How co-visits are counted, balanced and factorised. All of it is chosen on validation.

    window, decay: an item counts gap^-decay for the next `window` items of its user;
    backward: what it counts for the other direction (1: symmetric);
    balance: counts are divided by (row sum * column sum)^balance; power: of the singular values.
    """

    window: int = 20
    decay: float = 0.5
    backward: float = 0.5
    balance: float = 0.5
    power: float = 0.5


DEFAULT_RECIPE = Recipe()


@dataclass(frozen=True, slots=True)
class Collaborative:
    """Unit rows [n, dim] per role for items with support (events) above 0, zero rows for others."""

    context: Vectors
    target: Vectors
    support: NDArray[np.int32]


def covisits(seq: Sequences, *, window: int, decay: float) -> Matrix:
    """Count how often item j follows item i within `window` steps of one user, gap^-decay each."""
    users, shape = seq.users, (seq.n_items, seq.n_items)
    total: Matrix = sparse.csr_matrix(shape, dtype=np.float32)
    for gap in range(1, min(window, seq.longest - 1) + 1):
        left, right = seq.items[:-gap], seq.items[gap:]
        kept = (users[:-gap] == users[gap:]) & (left != right)
        weights = np.full(np.count_nonzero(kept), gap**-decay, dtype=np.float32)
        total = total + sparse.csr_matrix((weights, (left[kept], right[kept])), shape=shape)
    return total


def balanced(counts: Matrix, recipe: Recipe) -> Matrix:
    """Mix the directions and balance the counts as the recipe says."""
    matrix = (counts + recipe.backward * counts.T).tocsr()
    rows, columns = (
        sparse.diags(_inverse(matrix.sum(axis=axis), recipe.balance)) for axis in (1, 0)
    )
    return sparse.csr_matrix(rows @ matrix @ columns, dtype=np.float32)


def _inverse(sums: Floats, power: float) -> Floats:
    flat = np.asarray(sums, dtype=np.float64).ravel()
    return np.where(flat > 0, np.where(flat > 0, flat, 1) ** -power, 0)


def factorise(
    seq: Sequences, *, dim: int, seed: int, recipe: Recipe = DEFAULT_RECIPE
) -> Collaborative:
    """Factorise directed co-visits: strongest coordinates first, unit rows."""
    counts = covisits(seq, window=recipe.window, decay=recipe.decay)
    triples = singular(balanced(counts, recipe), dim, seed=seed)
    return from_triples(triples, seq.support, dim=dim, power=recipe.power)


def from_triples(
    triples: Triples, support: NDArray[np.int32], *, dim: int, power: float
) -> Collaborative:
    """Make unit rows of u * s^power and v * s^power.

    An item that never was beside another one has no direction of its own and gets the mean.
    """
    u, s, v = triples
    scale = s**power
    return Collaborative(_rows(u * scale, support, dim), _rows(v * scale, support, dim), support)


def _rows(factors: Floats, support: NDArray[np.int32], dim: int) -> Vectors:
    rows = np.zeros((len(support), dim), dtype=np.float32)
    rows[:, : factors.shape[1]] = factors
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
    q = _orthonormal(matrix @ start)
    for _ in range(rounds):
        q = _orthonormal(matrix @ _orthonormal(matrix.T @ q))
    v, s, u = _decomposed(matrix.T @ q)
    return (q @ u).astype(np.float32), s, v.T


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
