"""What one user can contribute to anything that is learnt from all users.

A weight per user says whom to trust; three constants bound everybody. It knows users and items as
row numbers; how a user came by a weight, it does not.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from alignment.interactions import Sequences

# Four real catalogues lose nothing by these on validation; the busiest user has 7,838 events there.
CAP = 1000  # events: whoever has more counts as many in all
PER_ITEM = 10  # events of a user with one item; more of them say nothing new
PER_PAIR = 1.0  # of a user for one item after another: as if once, and at once
Matrix = Any  # scipy.sparse.csr_matrix, which has no types
Weights = NDArray[np.float32]


def checked(weights: Weights | None, n_users: int) -> Weights:
    """Return a weight per user, 1 for all if there are none; ValueError outside 0..1."""
    if weights is None:
        return np.ones(n_users, np.float32)
    if weights.shape != (n_users,):
        raise ValueError(f"weights of shape {weights.shape} for {n_users} users: give one each")
    if not np.all((weights >= 0) & (weights <= 1)):
        raise ValueError("a user's weight is from 0 (ignored) to 1 (believed): scale the weights")
    return weights.astype(np.float32)


def within(totals: NDArray[Any], most: float) -> NDArray[np.float64]:
    """Return what to multiply users' totals by, so that none exceeds `most`; 1 for the others."""
    return most / np.maximum(totals, most)


def believed(seq: Sequences) -> NDArray[np.bool_]:
    """Mark the events that may teach: of a user the newest CAP, and PER_ITEM with one item."""
    age = seq.indptr[seq.users + 1] - np.arange(len(seq.items))
    order = np.lexsort((age, seq.items, seq.users))
    kinds = seq.users[order].astype(np.int64) * seq.n_items + seq.items[order]
    first = np.flatnonzero(np.diff(kinds, prepend=-1))
    nth = np.arange(len(kinds)) - np.repeat(first, np.diff(np.append(first, len(kinds))))
    few = np.empty(len(kinds), bool)
    few[order] = nth < PER_ITEM
    return few & (age <= CAP)


def taken(seq: Sequences) -> Matrix:
    """Count every user's events with every item, up to PER_ITEM: float32 [n_users, n_items]."""
    ones = np.ones(len(seq.items), np.float32)
    shape = (seq.n_users, seq.n_items)
    counts: Matrix = sparse.csr_matrix((ones, seq.items, seq.indptr), shape, copy=True)
    counts.sum_duplicates()
    counts.data = np.minimum(counts.data, PER_ITEM)
    return counts


def capped(seq: Sequences, weights: Weights) -> Matrix:
    """Return what is `taken`, weighted, every user's row scaled down to a sum of CAP at most."""
    counts = taken(seq)
    scale = weights * within(np.asarray(counts.sum(axis=1)).ravel(), CAP)
    rows: Matrix = sparse.csr_matrix(sparse.diags(scale) @ counts, dtype=np.float32)
    rows.eliminate_zeros()
    return rows


def support(seq: Sequences, weights: Weights) -> NDArray[np.int32]:
    """Count the events of every item as `taken`, weighted, rounded up."""
    return np.ceil(weights @ taken(seq) - 1e-3).astype(np.int32)
