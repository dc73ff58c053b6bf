"""Consumer A's reading as something to train by: what a log asks of two tables of rows.

A history is the recency-weighted mean of unit prefixes (consumer.py), and finds what follows it
among all items with events, or as many as fit into a step (sampled softmax, Jean et al., ACL 2015).
It knows sequences of row numbers; what the rows are made of, and which part of it is trained, the
caller says.
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
from alignment.consumer import MAX_HISTORY
from alignment.interactions import Ints, Sequences
from alignment.limits import Matrix
from alignment.softmax import Pairs, cross_entropy, fastest
from matryoshka.train import Loss, steps

HISTORY = 24  # events before the one to find that are read at least
FAINT = 0.08  # what an earlier one has to weigh to be read too
RECENT = 3  # of them, which compete with it in every step
WARM_UP = 20  # steps
AGAIN = 0.02  # of a user's events; from there on nothing that a user has competes


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast: `steps` at most, or `epochs` over a log that is shorter.

    candidates: items that compete in a step, as far as there are as many with events, or more if
    those that must be there are many; always: how many of the dims are in every step, the shortest
    first, since they hold the least.
    """

    steps: int = 300
    epochs: int = 8
    batch: int = 2048
    least: int = 64
    candidates: int = 4096
    rate: float = 3e-3
    dims_per_step: int = 2
    always: int = 1

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
    """Some events with the histories before them: items[k] of weights[k], split at offsets.

    candidates: distinct items, each of which stands for `odds` (a logarithm) of its kind; next: the
    places among them of what was found; absent: which of them do not compete in which event.
    """

    items: Ints
    offsets: Ints
    weights: NDArray[np.float32]
    candidates: Ints
    odds: NDArray[np.float32]
    next: Ints
    absent: Pairs | None


def trained(
    tables: Tables,
    moving: torch.optim.Optimizer,
    seq: Sequences,
    dims: Sequence[int],
    *,
    recency: float,
    spare: bool,
    seed: int,
    schedule: Schedule,
) -> Generator[int]:
    """Train what `moving` holds and the tables are made of; yield how many steps there were.

    spare: nothing that a user has at another time competes with what was found.
    """
    owned = limits.taken(seq.keep(limits.believed(seq))) if spare else None
    losses = (
        (schedule.rate * pace, _loss(tables, batch))
        for pace, batch in _batches(seq, recency, seed, schedule, owned)
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
    seq: Sequences, recency: float, seed: int, schedule: Schedule, owned: Matrix | None = None
) -> Iterator[tuple[float, Batch]]:
    """Draw the batches of all steps; every event comes once before any comes again."""
    rng, warm, events = np.random.default_rng(seed), np.flatnonzero(seq.support > 0), usable(seq)
    size = schedule.size(len(events))
    order, total = np.zeros(0, np.int64), schedule.length(seq)
    for step in range(total):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(events)])
        chosen, order = order[:size], order[size:]
        pace = min(1.0, (step + 1) / WARM_UP) * (0.525 + 0.475 * np.cos(np.pi * step / total))
        those, odds, found = candidates(seq, chosen, warm, schedule.candidates, rng)
        absent = None if owned is None else spared(owned, _users_of(seq, chosen), those, found)
        yield float(pace), Batch(*histories(seq, chosen, recency), those, odds, found, absent)


def candidates(
    seq: Sequences, events: Ints, warm: Ints, few: int, rng: np.random.Generator
) -> tuple[Ints, NDArray[np.float32], Ints]:
    """Return what competes to follow some histories, the odds, and where what followed is.

    What follows some history of the batch, or has just been in one, is there and stands for itself:
    these are the hardest to tell apart. Of the other items with events as many are drawn as are
    left of `few`, and a quarter of it at least; each stands for as many as were not drawn. So the
    denominator is right in the mean (stratified sampling), and exact for a small catalogue.
    """
    before = events[:, None] - np.arange(1, RECENT + 1)
    there = before >= seq.indptr[_users_of(seq, events)][:, None]
    found = seq.items[events].astype(np.int64)
    sure = np.union1d(found, seq.items[before[there]])
    others = np.ones(seq.n_items, bool)
    others[sure] = False
    rest = warm[others[warm]]
    drawn = rng.choice(rest, min(len(rest), max(few - len(sure), few // 4)), replace=False)
    odds = np.zeros(len(sure) + len(drawn), np.float32)
    odds[len(sure) :] = np.log(max(len(rest), 1) / max(len(drawn), 1))
    return np.concatenate([sure, drawn]), odds, np.searchsorted(sure, found)


def takes_again(seq: Sequences) -> bool:
    """Tell whether users take things again: in their mean, AGAIN of what they did or more.

    Of the events that may teach, those count that come at a later time than one of the same item.
    Every user counts the same, so that one alone changes little.
    """
    known = seq.keep(limits.believed(seq))
    order = np.lexsort((known.times, known.items, known.users))
    users, items, times = (each[order] for each in (known.users, known.items, known.times))
    later = (np.diff(users) == 0) & (np.diff(items) == 0) & (np.diff(times) > 0)
    again = np.bincount(users[1:][later], minlength=known.n_users)
    there = known.lengths > 0
    return bool(there.any()) and float(np.mean(again[there] / known.lengths[there])) >= AGAIN


def spared(owned: Matrix, users: Ints, candidates: Ints, found: Ints) -> Pairs:
    """Return which candidates do not compete in which event of some users.

    owned: what every user has at any time, [n_users, n_items]. None of it is a wrong answer; found:
    the place among the candidates of the right one, which stays.
    """
    places = np.full(owned.shape[1], -1)
    places[candidates] = np.arange(len(candidates))
    theirs = owned[users]
    events = np.repeat(np.arange(len(users)), np.diff(theirs.indptr))
    items = places[theirs.indices]
    others = (items >= 0) & (items != found[events])
    return Pairs(torch.from_numpy(events[others]), torch.from_numpy(items[others]))


def histories(
    seq: Sequences, events: Ints, recency: float
) -> tuple[Ints, Ints, NDArray[np.float32]]:
    """Return the items before some events of the log, where each history starts, and the weights.

    events: places in the log. A history is the items before, weighted recency^age: HISTORY of them,
    or more where histories fade so slowly that more are not FAINT.
    """
    most = max(HISTORY, min(MAX_HISTORY, int(np.log(FAINT) / np.log(recency))))
    first = np.maximum(seq.indptr[_users_of(seq, events)], events - most)
    lengths = events - first
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    places = np.repeat(first - offsets, lengths) + np.arange(lengths.sum())
    ages = np.repeat(events, lengths) - 1 - places
    weights = np.power(recency, ages, dtype=np.float32)
    return seq.items[places].astype(np.int64), offsets, weights


def _users_of(seq: Sequences, events: Ints) -> Ints:
    return np.searchsorted(seq.indptr, events, side="right") - 1


def _loss(tables: Tables, batch: Batch) -> Loss:
    """Ask for what followed, against all that competes."""

    def loss(dims: Sequence[int], temperatures: Sequence[Tensor]) -> Tensor:
        seen, inside = np.unique(batch.items, return_inverse=True)
        context = tables.context(torch.from_numpy(seen))
        target = tables.target(torch.from_numpy(batch.candidates))
        bags = [torch.from_numpy(each) for each in (inside, batch.offsets, batch.weights)]
        odds, wanted = torch.from_numpy(batch.odds)[:, None], torch.from_numpy(batch.next)

        def read(dim: int, temperature: Tensor) -> Tensor:
            here = slice(0, dim - tables.behind)
            users = _users(context[:, here], bags) / temperature
            users = torch.cat([users, torch.ones(len(users), 1)], dim=1)  # by which odds are added
            items = torch.cat([tables.counted(target[:, here]), odds], dim=1)
            return cross_entropy(users, items, wanted, absent=batch.absent, dtype=fastest())

        return torch.stack([read(*each) for each in zip(dims, temperatures, strict=True)]).mean()

    return loss


def _users(context: Tensor, bags: list[Tensor]) -> Tensor:
    """Return the unit rows of histories: the weighted sum of unit prefixes."""
    rows = functional.normalize(context, dim=1)
    items, offsets, weights = bags
    found = functional.embedding_bag(items, rows, offsets, mode="sum", per_sample_weights=weights)
    return functional.normalize(found, dim=1)
