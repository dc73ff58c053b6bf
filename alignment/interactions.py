"""An interaction log as one time-ordered sequence of items per user, and its splits.

It knows users and items as row numbers; ids, files and tables are somebody else's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

COLD_SHARE = 0.1
Ints = NDArray[np.int64]
Rows = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Sequences:
    """User u's items, oldest first, are items[indptr[u]:indptr[u + 1]]."""

    indptr: Ints
    items: Rows
    times: Ints
    n_items: int

    @property
    def n_users(self) -> int:
        """How many users there are, also without events."""
        return len(self.indptr) - 1

    @property
    def lengths(self) -> Ints:
        """How many events every user has."""
        return np.diff(self.indptr)

    @property
    def longest(self) -> int:
        """How many events the busiest user has."""
        return int(self.lengths.max(initial=0))

    @property
    def users(self) -> Ints:
        """The user of every event."""
        return np.repeat(np.arange(self.n_users), self.lengths)

    @property
    def support(self) -> Rows:
        """How many events every item has."""
        return np.bincount(self.items, minlength=self.n_items).astype(np.int32)

    def keep(self, events: NDArray[np.bool_]) -> "Sequences":
        """Return the same users and items with only the marked events."""
        kept = np.concatenate([[0], np.cumsum(events)])
        return Sequences(kept[self.indptr], self.items[events], self.times[events], self.n_items)


@dataclass(frozen=True, slots=True)
class Split:
    """Leave-last-out: `train` to learn from, then one validation and one test target per user.

    users: the evaluated users (those with three events or more); validation, test: their items.
    """

    train: Sequences
    users: Ints
    validation: Rows
    test: Rows


def from_log(
    users: ArrayLike,
    items: ArrayLike,
    times: ArrayLike,
    *,
    n_items: int,
    seed: int,
    ties: ArrayLike | None = None,
) -> Sequences:
    """Order a log by user and time; equal timestamps of a user are shuffled by `seed`.

    users, items: row numbers from 0; times: any integers that grow with time. ties: a number per
    event that orders equal timestamps instead; drawn from what never changes about an event, it
    keeps every user's order while the log grows. ValueError for columns of unequal length, or items
    outside 0..n_items - 1.
    """
    u, i, t = (np.asarray(column, dtype=np.int64) for column in (users, items, times))
    if not len(u) == len(i) == len(t):
        raise ValueError(f"columns of {len(u)}, {len(i)} and {len(t)} rows: give equal lengths")
    if len(i) and not 0 <= i.min() <= i.max() < n_items:
        raise ValueError(f"item rows {i.min()}..{i.max()}: expected 0..{n_items - 1}")
    drawn = np.random.default_rng(seed).permutation(len(u)) if ties is None else np.asarray(ties)
    order = np.lexsort((drawn, t, u))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(u))]).astype(np.int64)
    return Sequences(indptr, i[order].astype(np.int32), t[order], n_items)


def leave_last_out(seq: Sequences) -> Split:
    """Take the last event of every user of three or more for test, the one before to validate."""
    users = np.flatnonzero(seq.lengths >= 3)
    last = seq.indptr[users + 1] - 1
    train = np.ones(len(seq.items), dtype=bool)
    train[last] = train[last - 1] = False
    return Split(seq.keep(train), users, seq.items[last - 1], seq.items[last])


def playing_cold(n: int, *, seed: int) -> NDArray[np.bool_]:
    """Draw the items that play cold: bool [n]."""
    return np.random.default_rng(seed).random(n) < COLD_SHARE


def playing_new(support: Rows, *, seed: int) -> NDArray[np.bool_]:
    """Draw items with events until, with those that have none, as many are new: bool [n].

    They are some of those that play cold by the same seed.
    """
    known = support > 0
    missing = COLD_SHARE - np.mean(~known)
    share = max(0.0, missing) / max(float(np.mean(known)), COLD_SHARE)
    return known & (np.random.default_rng(seed).random(len(support)) < share)
