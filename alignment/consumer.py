"""Consumer A, the training-free reader of item vectors that every choice and figure relies on.

A user is the mean of the latest context vectors of the history, weighted recency^age; candidates
are scored by the cosine with their target vectors over the whole catalogue. It knows vectors and
rows only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from alignment.interactions import Ints, Rows, Split
from matryoshka.prefix import Vectors, prefix

RECENCY = 0.6  # until one is chosen
MAX_HISTORY = 64  # events: .6^64 is below what float32 can add, .95^64 is a twenty-seventh
BLOCK_BYTES = 64 << 20
Matrix = Any  # scipy.sparse.csr_matrix, which has no types
Floats = NDArray[np.float64]
Score = Callable[[Matrix], Vectors]


@dataclass(frozen=True, slots=True)
class Trial:
    """Users to rank for: weighted histories and seen items [users, items], and one target each."""

    history: Matrix
    seen: Matrix
    targets: Rows

    def only(self, users: Ints) -> "Trial":
        """Return the trial of some of its users, given by their places."""
        return Trial(self.history[users], self.seen[users], self.targets[users])

    def faded(self, recency: float) -> "Trial":
        """Return the same users with a history weighted recency^age instead of RECENCY^age."""
        history = self.history.copy()
        history.data **= np.float32(np.log(recency) / np.log(RECENCY))
        return Trial(history, self.seen, self.targets)

    def without(self, held: NDArray[np.bool_]) -> "Trial":
        """Return the same users, none of whom has met the held items: neither read, nor masked.

        The ages of other events stay as they are.
        """
        history, seen = self.history.copy(), self.seen.copy()
        for part in (history, seen):
            part.data[held[part.indices]] = 0
            part.eliminate_zeros()
        return Trial(history, seen, self.targets)

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Mid-rank of every target (0 is best) in the full catalogue, with and without seen items."""

    unmasked: Floats
    masked: Floats


def trial(split: Split, *, on: str, max_users: int | None = None, seed: int = 0) -> Trial:
    """Set the "validation" or the "test" targets behind the events before them.

    The latest MAX_HISTORY of them are read, all are seen. Above `max_users`, a sample of the users
    is drawn. ValueError for other targets.
    """
    if on not in ("validation", "test"):
        raise ValueError(f'no targets are called {on!r}: choose "validation" or "test"')
    chosen = np.arange(len(split.users))
    if max_users is not None and len(chosen) > max_users:
        chosen = np.sort(np.random.default_rng(seed).choice(len(chosen), max_users, replace=False))
    train, users = split.train, split.users[chosen]
    tails = [train.items[train.indptr[u] : train.indptr[u + 1]] for u in users]
    if on == "test":
        tails = [np.append(t, v) for t, v in zip(tails, split.validation[chosen], strict=True)]
    return Trial(
        _rows([t[-MAX_HISTORY:] for t in tails], train.n_items, recency=RECENCY),
        _rows([np.unique(t) for t in tails], train.n_items, recency=1.0),
        (split.validation if on == "validation" else split.test)[chosen],
    )


def _rows(lists: list[Rows], n_items: int, *, recency: float) -> Matrix:
    lengths = np.array([len(items) for items in lists], dtype=np.int64)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    ages = np.repeat(indptr[1:], lengths) - 1 - np.arange(indptr[-1])
    items = np.concatenate([*lists, np.zeros(0, np.int32)])
    weights = np.power(recency, ages, dtype=np.float32)
    return sparse.csr_matrix((weights, items, indptr), shape=(len(lists), n_items))


def rank(score: Score, cases: Trial) -> Ranks:
    """Rank every target by score(histories) -> float32 [users, items], block by block.

    ValueError where the score of a target is not finite.
    """
    unmasked, masked = np.zeros(len(cases)), np.zeros(len(cases))
    for rows in blocks(cases):
        unmasked[rows], masked[rows] = _rank_block(score(cases.history[rows]), cases, rows)
    return Ranks(unmasked, masked)


def blocks(cases: Trial) -> Iterator[slice]:
    """Cut the users into runs whose float32 scores of all items take BLOCK_BYTES."""
    size = max(1, BLOCK_BYTES // (4 * max(1, cases.history.shape[1])))
    for start in range(0, len(cases), size):
        yield slice(start, min(start + size, len(cases)))


def _rank_block(scores: Vectors, cases: Trial, rows: slice) -> tuple[Floats, Floats]:
    targets = cases.targets[rows]
    own = scores[np.arange(len(targets)), targets]
    if not np.isfinite(own).all():
        raise ValueError("scores that are not finite cannot be ranked: the vectors hold NaN")
    above = np.count_nonzero(scores > own[:, None], axis=1)
    level = np.count_nonzero(scores == own[:, None], axis=1) - 1
    seen = cases.seen[rows].tocoo()
    other = seen.col != targets[seen.row]
    user, item = seen.row[other], seen.col[other]
    gone = np.where(scores[user, item] > own[user], 1.0, 0.5 * (scores[user, item] == own[user]))
    unmasked = above + level / 2
    return unmasked, unmasked - np.bincount(user, weights=gone, minlength=len(targets))


def by_cosine(context: Vectors, target: Vectors, *, dim: int) -> Score:
    """Score with prefixes of `dim`, every one a unit row; the user's own length does not matter.

    context, target: float32 [n, d] of the same items, d >= dim.
    """
    context, candidates = prefix(context, dim), prefix(target, dim).T.copy()
    return lambda histories: (histories @ context) @ candidates


def figures(ranks: Floats) -> dict[str, float]:
    """Recall and NDCG at 10 and 20 of one target per user, and the number of users.

    "se" is the standard error of R@10, "se N@10" that of N@10.
    """
    table: dict[str, float] = dict.fromkeys(("R@10", "N@10", "R@20", "N@20", "se", "se N@10"), 0.0)
    if not len(ranks):
        return table | {"users": 0}
    for k in (10, 20):
        table[f"R@{k}"] = float(hits(ranks, k).mean())
        table[f"N@{k}"] = float(gains(ranks, k).mean())
    for name, values in (("se", hits(ranks, 10)), ("se N@10", gains(ranks, 10))):
        table[name] = error(values)
    return table | {"users": len(ranks)}


def error(values: Floats) -> float:
    """Return the standard error of a mean over users; 0 without any."""
    return float(values.std() / np.sqrt(len(values))) if len(values) else 0.0


def hits(ranks: Floats, k: int) -> Floats:
    """Whether each target is among the first k, 0 or 1."""
    return (ranks < k).astype(np.float64)


def gains(ranks: Floats, k: int) -> Floats:
    """Each target's share of NDCG@k: less with every rank, 0 from rank k on."""
    return hits(ranks, k) / np.log2(ranks + 2)
