"""Consumer A's reading as something to train by: what a log asks of two tables of rows.

A history is the recency-weighted mean of unit prefixes (consumer.py), and finds what follows it
among candidates, drawn as in sampled softmax (Jean et al., ACL 2015). It knows sequences of row
numbers; what the rows are made of, and which part of it is trained, the caller says.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from alignment import limits
from alignment.interactions import Ints, Sequences
from matryoshka.loss import nested_softmax
from matryoshka.train import Loss, steps

HISTORY = 24  # events before the one to find
WARM_UP = 20  # steps


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast: `steps` at most, or `epochs` over a log that is shorter.

    candidates: drawn evenly among the items with events; always: how many of the dims are in every
    step, the shortest first, since they hold the least.
    """

    steps: int = 300
    epochs: int = 8
    batch: int = 2048
    least: int = 64
    candidates: int = 1024
    rate: float = 3e-3
    dims_per_step: int = 2
    always: int = 1
    check_every: int = 50
    patience: int = 2

    def length(self, seq: Sequences) -> int:
        """Return how many steps a log is trained on at most."""
        events = len(usable(seq))
        return min(self.steps, self.epochs * -(-events // self.size(events))) if events else 0

    def size(self, events: int) -> int:
        """Return the events of a batch: fewer where the log is short."""
        return min(self.batch, max(self.least, events // 16), events)


class Tables(NamedTuple):
    """What is read: per role, the rows [k, d] of item numbers [k].

    counted: of the prefixes of targets, what an inner product with a user is taken of;
    behind: how many coordinates of a published prefix lie in front of these rows.
    """

    context: Callable[[Tensor], Tensor]
    target: Callable[[Tensor], Tensor]
    counted: Callable[[Tensor], Tensor]
    behind: int = 0


class Batch(NamedTuple):
    """Some events with the histories before them: items[k] of weights[k], split at offsets."""

    items: Ints
    offsets: Ints
    weights: NDArray[np.float32]
    next: Ints
    candidates: Ints


def trained(
    tables: Tables,
    moving: torch.optim.Optimizer,
    seq: Sequences,
    dims: Sequence[int],
    *,
    recency: float,
    seed: int,
    schedule: Schedule,
) -> Generator[int]:
    """Train what `moving` holds and the tables are made of; yield how many steps there were."""
    odds = float(np.log(np.count_nonzero(seq.support)))
    losses = (
        (schedule.rate * pace, _loss(tables, batch, odds))
        for pace, batch in _batches(seq, recency, seed, schedule)
    )
    yield from steps(
        losses,
        moving,
        dims,
        per_step=schedule.dims_per_step,
        always=schedule.always,
        seed=seed,
    )


def usable(seq: Sequences) -> Ints:
    """Return the places of events with one before them, as many of a user as the limits allow."""
    places = np.arange(len(seq.items))
    return places[(places > seq.indptr[seq.users]) & limits.believed(seq)]


def _batches(
    seq: Sequences, recency: float, seed: int, schedule: Schedule
) -> Iterator[tuple[float, Batch]]:
    """Draw the batches of all steps; every event comes once before any comes again."""
    rng, warm, events = np.random.default_rng(seed), np.flatnonzero(seq.support > 0), usable(seq)
    size, few = schedule.size(len(events)), min(schedule.candidates, len(warm))
    order, total = np.zeros(0, np.int64), schedule.length(seq)
    for step in range(total):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(events)])
        chosen, order = order[:size], order[size:]
        found = seq.items[chosen].astype(np.int64)
        pace = min(1.0, (step + 1) / WARM_UP) * (0.525 + 0.475 * np.cos(np.pi * step / total))
        candidates = rng.choice(warm, few, replace=False)
        yield float(pace), Batch(*histories(seq, chosen, recency), found, candidates)


def histories(
    seq: Sequences, events: Ints, recency: float
) -> tuple[Ints, Ints, NDArray[np.float32]]:
    """Return the items before some events of the log, where each history starts, and the weights.

    events: places in the log. A history is the HISTORY items before, weighted recency^age.
    """
    first = np.maximum(seq.indptr[_users_of(seq, events)], events - HISTORY)
    lengths = events - first
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    places = np.repeat(first - offsets, lengths) + np.arange(lengths.sum())
    ages = np.repeat(events, lengths) - 1 - places
    weights = np.power(recency, ages, dtype=np.float32)
    return seq.items[places].astype(np.int64), offsets, weights


def _users_of(seq: Sequences, events: Ints) -> Ints:
    return np.searchsorted(seq.indptr, events, side="right") - 1


def _loss(tables: Tables, batch: Batch, odds: float) -> Loss:
    """Ask for what followed, against the candidates drawn.

    odds: log of how many items candidates are drawn of, for whom they stand.
    """

    def loss(dims: Sequence[int], temperatures: Sequence[Tensor]) -> Tensor:
        seen, inside = np.unique(batch.items, return_inverse=True)
        wanted, among = np.unique(np.append(batch.next, batch.candidates), return_inverse=True)
        context = tables.context(torch.from_numpy(seen))
        target = tables.target(torch.from_numpy(wanted))[torch.from_numpy(among)]
        bags = [torch.from_numpy(each) for each in (inside, batch.offsets, batch.weights)]

        def read(dim: int) -> tuple[Tensor, Tensor]:
            here = slice(0, dim - tables.behind)
            return _users(context[:, here], bags), tables.counted(target[:, here])

        return nested_softmax(
            read,
            dims,
            temperatures,
            correction=odds - float(np.log(len(batch.candidates))),
            forbidden=torch.from_numpy(batch.next[:, None] == batch.candidates),
        )

    return loss


def _users(context: Tensor, bags: list[Tensor]) -> Tensor:
    """Return the unit rows of histories: the weighted sum of unit prefixes."""
    rows = functional.normalize(context, dim=1)
    items, offsets, weights = bags
    found = functional.embedding_bag(items, rows, offsets, mode="sum", per_sample_weights=weights)
    return functional.normalize(found, dim=1)
