"""Trains the nested head of the aligned view: from content alone, one row per item.

The objective is consumer A's own reading (reading.py), so what is alike to the head is what follows
each other in a log. It knows content rows and sequences of their row numbers.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from alignment import reading
from alignment.interactions import Sequences
from alignment.reading import Schedule
from matryoshka.head import Head, identity
from matryoshka.prefix import Vectors
from matryoshka.train import best, reproducible

DEFAULT_SCHEDULE = Schedule(steps=200, rate=6e-3)
CHECKS, PATIENCE = 4, 2  # how often the head is judged, and how often not better ends training
DECAY = 5.0  # of what was learnt, per step and rate; without it new items are found less


def fit_head(
    rows: Vectors,
    seq: Sequences,
    dims: Sequence[int],
    *,
    recency: float,
    seed: int,
    spare: bool = False,
    quality: Callable[[Head], float] | None = None,
    schedule: Schedule = DEFAULT_SCHEDULE,
    decay: float = DECAY,
) -> Head:
    """Train a head over unit rows [n, d] from the identity on, which stays for a log without pairs.

    It is drawn back to the identity (L2-SP, Li et al., ICML 2018), as weights are in AdamW.
    spare: nothing that a user has competes with what the user takes (reading.py). quality: the
    greater the better; the best head that it was shown is returned, the last without.
    """
    table, start = torch.from_numpy(rows), identity(rows.shape[1]).weight
    learnt = torch.zeros(start.shape, requires_grad=True)

    def read(items: Tensor) -> Tensor:
        return table[items] + table[items] @ learnt

    with reproducible():
        return best(
            reading.trained(
                reading.Tables(read, read, lambda target: functional.normalize(target, dim=1)),
                torch.optim.AdamW([learnt], lr=schedule.rate, weight_decay=decay),
                seq,
                dims,
                recency=recency,
                spare=spare,
                seed=seed,
                schedule=schedule,
            ),
            lambda: Head(start + learnt.detach().numpy()),
            stop=schedule.length(seq),
            quality=quality,
            every=schedule.steps // CHECKS,
            patience=PATIENCE,
        )
