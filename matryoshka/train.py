"""Trains the nested head on pairs of rows that belong together.

It knows row numbers and arrays. How good a head is, the caller says (`quality`): the best head it
was shown is kept, and training stops when it no longer improves.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from matryoshka.head import Head, identity
from matryoshka.loss import nested_info_nce
from matryoshka.pairs import Pairs
from matryoshka.prefix import Vectors

COOLEST, WARMEST, FIRST = 0.01, 0.2, 0.07  # temperatures


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train; `logq` scales the popularity correction (0: none)."""

    steps: int = 150
    batch: int = 512
    rate: float = 1e-2
    logq: float = 0.5
    dims_per_step: int = 2
    check_every: int = 25
    patience: int = 2


DEFAULT_SCHEDULE = Schedule()


def fit(
    rows: Vectors,
    pairs: Pairs,
    dims: Sequence[int],
    *,
    seed: int,
    schedule: Schedule = DEFAULT_SCHEDULE,
    quality: Callable[[Head], float] | None = None,
) -> Head:
    """Train a head over unit rows [n, d]; without pairs it stays the identity.

    quality: the greater the better, asked every `check_every` steps; the last head is returned
    without it.
    """
    best = identity(rows.shape[1])
    if not len(pairs):
        return best
    top, stale = quality(best) if quality else 0.0, 0
    with reproducible():
        for head in _heads(rows, pairs, dims, seed=seed, schedule=schedule):
            value = quality(head) if quality else top
            if value >= top:
                best, top, stale = head, value, 0
                continue
            stale += 1
            if stale > schedule.patience:
                break
    return best


def _heads(
    rows: Vectors, pairs: Pairs, dims: Sequence[int], *, seed: int, schedule: Schedule
) -> Iterator[Head]:
    """Train step by step; yield the head every `check_every` steps."""
    rng, table = np.random.default_rng(seed), torch.from_numpy(rows)
    weight = torch.eye(rows.shape[1], requires_grad=True)
    heat = torch.full((len(dims),), float(np.log(FIRST)), requires_grad=True)
    optimiser = torch.optim.Adam([weight, heat], lr=schedule.rate)
    chance = np.cumsum(pairs.weight) / pairs.weight.sum()
    popularity = torch.from_numpy(_log_popularity(pairs, len(rows)) * np.float32(schedule.logq))
    batch = min(schedule.batch, len(pairs))
    for step in range(1, schedule.steps + 1):
        drawn = np.searchsorted(chance, rng.random(batch)).clip(max=len(pairs) - 1)
        left, right = pairs.left[drawn], pairs.right[drawn]
        same = (right[:, None] == right) | (left[:, None] == right)
        np.fill_diagonal(same, False)
        some = min(schedule.dims_per_step, len(dims))
        picked = np.sort(rng.choice(len(dims), some, replace=False))
        loss = nested_info_nce(
            table[left] @ weight,
            table[right] @ weight,
            [dims[k] for k in picked],
            temperatures=heat[picked].exp().clamp(COOLEST, WARMEST),
            log_popularity=popularity[right],
            forbidden=torch.from_numpy(same),
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % schedule.check_every == 0:
            yield Head(weight.detach().numpy().copy())


def _log_popularity(pairs: Pairs, n: int) -> Vectors:
    counts = np.bincount(pairs.right, weights=pairs.weight, minlength=n)
    return np.log(np.maximum(counts / counts.sum(), 1e-9)).astype(np.float32)


@contextmanager
def reproducible() -> Generator[None]:
    """Let torch use deterministic algorithms and one thread, for as long as this lasts.

    The matrices of a step are small: on two busy cores a second thread made it ten times slower.
    """
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(before)
