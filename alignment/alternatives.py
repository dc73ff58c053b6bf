"""Item tables of other recommenders: one vector per item, in both roles, instead of co-visits.

Each is a function of a log, a dim, a seed and users' weights, and knows of items row numbers only.
The same inputs give the same table.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from alignment import sasrec
from alignment.interactions import Sequences, Split, leave_last_out
from alignment.limits import Weights, capped

# Of 17 pairs of the first two, and of 9 of BPR's, the best mean on validation of four catalogues.
CONFIDENCE, ALS_DECAY, ALS_ROUNDS = 100.0, 100.0, 15
BPR_RATE, BPR_DECAY, BPR_EPOCHS = 0.1, 0.02, 100
HELD = 1000  # users at most who say when to stop training, and a tenth of them at most
Rows = NDArray[np.floating[Any]]
Table = Callable[[Sequences, int, int, Weights], Rows]


def als(seq: Sequences, dim: int, seed: int, weights: Weights) -> Rows:
    """Factorise who took what by least squares (Hu et al., ICDM 2008): float32 [n, dim].

    A user's weight is the confidence in the events.
    """
    model = _implicit().als.AlternatingLeastSquares(
        factors=dim,
        regularization=ALS_DECAY,
        alpha=CONFIDENCE,
        iterations=ALS_ROUNDS,
        num_threads=1,
        random_state=seed,
    )
    return _fitted(model, capped(seq, weights))


def bpr(seq: Sequences, dim: int, seed: int, weights: Weights) -> Rows:
    """Rank what users took above what they did not (Rendle et al., UAI 2009): float32 [n, dim].

    What counts for less than one event is drawn with that probability. Popularity, which the model
    has as an offset per item, is left out.
    """
    counts = capped(seq, weights)
    counts.data = (np.random.default_rng(seed).random(counts.nnz) < counts.data).astype(np.float32)
    counts.eliminate_zeros()
    model = _implicit().bpr.BayesianPersonalizedRanking(
        factors=dim,
        learning_rate=BPR_RATE,
        regularization=BPR_DECAY,
        iterations=BPR_EPOCHS,
        num_threads=1,
        random_state=seed,
    )
    return _fitted(model, counts)[:, :dim]


def learned(seq: Sequences, dim: int, seed: int, weights: Weights) -> Rows:
    """Train our SASRec and take its items: float32 [n, sasrec.WIDTH], whatever the dim.

    A user is read with the probability of the weight, and the latest events only. Without a user
    of two events there is nothing to train on: [n, 1] zeros.
    """
    read = np.random.default_rng(seed).random(seq.n_users) < weights
    seq = seq.keep(read[seq.users])
    if seq.longest < 2:
        return np.zeros((seq.n_items, 1), np.float32)
    return sasrec.train_ids(held_out(seq, seed=seed), seed=seed).rows()[1]


def held_out(seq: Sequences, *, seed: int) -> Split:
    """Hold the last two events of some users out, so that those of the others are learnt from."""
    able = np.flatnonzero(seq.lengths >= 3)
    count = min(HELD, len(able) // 10)
    users = np.sort(np.random.default_rng(seed).choice(able, count, replace=False))
    last = seq.indptr[users + 1] - 1
    train = np.ones(len(seq.items), bool)
    train[last] = train[last - 1] = False
    split = leave_last_out(seq.keep(np.isin(seq.users, users)))
    return replace(split, train=seq.keep(train))


def _implicit() -> Any:
    """Import what only these two methods need, as it is on a CPU: no GPU repeats itself."""
    try:
        import implicit.cpu.als
        import implicit.cpu.bpr
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the methods als and bpr need the library implicit: pip install 'itemnest[implicit]'"
        ) from error
    return implicit.cpu


def _fitted(model: Any, counts: Any) -> Rows:
    """Fit in one thread, which is what makes it repeatable."""
    if not counts.nnz:
        return np.zeros((counts.shape[1], 1), np.float32)
    with threadpool_limits(1, "blas"):
        model.fit(counts, show_progress=False)
    return model.item_factors


TABLES: dict[str, Table] = {"als": als, "bpr": bpr, "sasrec": learned}
