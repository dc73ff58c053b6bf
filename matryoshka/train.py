"""Trains rows that are good at every prefix (Kusupati et al., NeurIPS 2022), and keeps the best.

It knows dims, losses and optimisers; what is read at a dim, and how good it is, the caller says.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

COOLEST, WARMEST, FIRST = 0.01, 0.3, 0.07  # temperatures
HEATING = 1e-2  # their learning rate
S = TypeVar("S")
T = TypeVar("T")
Loss = Callable[[Sequence[int], Sequence[Tensor]], Tensor]  # of dims and their temperatures


def steps(
    losses: Iterable[tuple[float, Loss]],
    moving: torch.optim.Optimizer,
    dims: Sequence[int],
    *,
    per_step: int,
    always: int,
    seed: int,
) -> Generator[int]:
    """Train what `moving` holds on (rate, loss) after (rate, loss); yield the number of each step.

    per_step: how many of the dims a step reads; always: how many of these are the shortest ones in
    every step, the others are drawn. A temperature per dim is trained beside.
    """
    rng, some = np.random.default_rng(seed), min(per_step, len(dims))
    fixed = min(always, some)
    heat = torch.full((len(dims),), float(np.log(FIRST)), requires_grad=True)
    heating = torch.optim.Adam([heat], lr=HEATING)
    for step, (rate, loss) in enumerate(losses, start=1):
        moving.param_groups[0]["lr"] = rate
        drawn = rng.choice(len(dims) - fixed, some - fixed, replace=False)
        picked = [*range(fixed), *(fixed + drawn)]
        heats = heat.exp().clamp(COOLEST, WARMEST)
        value = loss([dims[k] for k in picked], [heats[k] for k in picked])
        for optimiser in (heating, moving):
            optimiser.zero_grad()
        value.backward()
        for optimiser in (heating, moving):
            optimiser.step()
        yield step


def best(
    trained: Iterable[int],
    read: Callable[[], T],
    *,
    stop: int,
    quality: Callable[[T], float] | None,
    every: int,
    patience: int,
) -> T:
    """Train up to `stop`, and return the best of what is read off now, every so often, and then.

    quality: the greater the better, training stops when it has not improved `patience` times; the
    last is returned without it.
    """
    kept, stale = read(), 0
    if not stop:
        return kept
    top = quality(kept) if quality else -np.inf
    for step in trained:
        if step < stop and (quality is None or step % every):
            continue
        found = read()
        value = quality(found) if quality else 0.0
        kept, top, stale = (found, value, 0) if value > top else (kept, top, stale + 1)
        if step == stop or stale == patience:
            break
    return kept


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


def at_once(one: Callable[[], T], other: Callable[[], S]) -> tuple[T, S]:
    """Call two functions side by side, and return both results: a training uses one core only.

    What one of them raises is raised when both have ended, of two exceptions the first function's.
    """
    with reproducible(), ThreadPoolExecutor(1) as pool:
        beside = pool.submit(other)
        return one(), beside.result()
