"""Trains what a log adds to item vectors: a residual per item and role, good at every prefix.

The objective is consumer A's own reading (consumer.py): a history is the recency-weighted mean of
unit prefixes, and finds what follows it among candidates. Wide rows are read through their prefixes
as in Matryoshka representation learning (Kusupati et al., NeurIPS 2022), candidates are drawn as in
sampled softmax (Jean et al., ACL 2015). It knows two tables of the same items and sequences of
their rows.
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
from alignment.fuse import REACH, Dial, Residuals
from alignment.interactions import Ints, Rows, Sequences
from matryoshka.prefix import Vectors
from matryoshka.train import COOLEST, FIRST, reproducible

HISTORY = 24  # events before the one to find
WARM_UP = 20  # steps
WARMEST, HEATING = 0.3, 1e-2  # temperatures: their greatest, and their learning rate
Quality = Callable[[Residuals], float]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast: `steps` at most, or `epochs` over a log that is shorter.

    candidates: drawn evenly among the items with events; ahead: chance of looking one event further
    for the one to find, and so on, as events side by side are often in no order at all (a basket);
    always: how many of the dims are in every step, the shortest first, since they hold the least.
    """

    steps: int = 300
    epochs: int = 8
    batch: int = 2048
    least: int = 64
    candidates: int = 1024
    rate: float = 3e-3
    ahead: float = 0.5
    dims_per_step: int = 2
    always: int = 1
    check_every: int = 50
    patience: int = 2


DEFAULT_SCHEDULE = Schedule()


class Table(NamedTuple):
    """One role's rows, what is added to them, and how far it is believed."""

    rows: Tensor
    residuals: Tensor
    trust: Tensor


class Batch(NamedTuple):
    """Some events with the histories before them: items[k] of weights[k], split at offsets."""

    rate: float
    items: Ints
    offsets: Ints
    weights: NDArray[np.float32]
    next: Ints
    candidates: Ints


class Trained(NamedTuple):
    """Residuals, and after how many steps they were what they are."""

    residuals: Residuals
    steps: int


def train(
    context: Vectors,
    target: Vectors,
    seq: Sequences,
    dims: Sequence[int],
    *,
    recency: float,
    dial: Dial,
    seed: int,
    steps: int | None = None,
    quality: Quality | None = None,
    schedule: Schedule = DEFAULT_SCHEDULE,
) -> Trained:
    """Train residuals of unit rows float32 [n, d], which stay zero for items without events.

    dims: published granularities; a prefix of m reads m - 1 coordinates of these rows, behind the
    one that the reach of a target takes (fuse.py). A residual of an item of n events counts
    n / (n + dial.n0), and is `dial.bound` long at most.
    quality: the greater the better, asked every `check_every` steps: what is best is returned, and
    training stops when it no longer improves. steps: where to stop instead, as was found before.
    """
    support = limits.support(seq, limits.checked(None, seq.n_users))
    tables = [_table(rows, support, dial) for rows in (context, target)]
    events = _usable(seq)
    total = _steps(len(events), schedule)
    best, top, stale = Trained(_read_off(tables, dial), 0), -np.inf, 0
    stop = total if steps is None else min(steps, total)
    if not stop:
        return best
    with reproducible():
        batches = _batches(seq, events, total, recency, seed, schedule)
        for step in _trained(tables, batches, dims, dial, seed, schedule):
            if step < stop and (quality is None or step % schedule.check_every):
                continue
            found = Trained(_read_off(tables, dial), step)
            value = quality(found.residuals) if quality else 0.0
            best, top, stale = (found, value, 0) if value > top else (best, top, stale + 1)
            if step == stop or stale == schedule.patience:
                break
    return best


def _usable(seq: Sequences) -> Ints:
    """Return the places of events with one before them, as many of a user as the limits allow."""
    places = np.arange(len(seq.items))
    return places[(places > seq.indptr[seq.users]) & limits.believed(seq)]


def _steps(events: int, schedule: Schedule) -> int:
    size = _size(events, schedule)
    return min(schedule.steps, schedule.epochs * -(-events // size)) if events else 0


def _size(events: int, schedule: Schedule) -> int:
    """Return the events of a batch: fewer where the log is short."""
    return min(schedule.batch, max(schedule.least, events // 16), events)


def _table(rows: Vectors, support: Rows, dial: Dial) -> Table:
    trust = (support / (support + dial.n0)).astype(np.float32)[:, None]
    return Table(
        torch.from_numpy(rows),
        torch.zeros(rows.shape, requires_grad=True),
        torch.from_numpy(trust),
    )


def _added(table: Table, items: Tensor, dial: Dial) -> Tensor:
    """Return what is added to some rows: believed as far as the evidence goes, and bounded."""
    found = functional.embedding(items, table.residuals, sparse=True) * table.trust[items]
    lengths = found.norm(dim=1, keepdim=True).clamp_min(1e-9)
    return found * (dial.bound / lengths).clamp_max(1)


def _read_off(tables: list[Table], dial: Dial) -> Residuals:
    """Return the residuals as they are added, in steps of a float16: half to store, none to see."""
    with torch.no_grad():
        every = torch.arange(len(tables[0].rows))
        context, target = (_added(table, every, dial).half().float().numpy() for table in tables)
    return Residuals(context, target)


def _batches(
    seq: Sequences, events: Ints, total: int, recency: float, seed: int, schedule: Schedule
) -> Iterator[Batch]:
    """Draw the batches of all steps; every event comes once before any comes again."""
    rng, warm = np.random.default_rng(seed), np.flatnonzero(seq.support > 0)
    size, few = _size(len(events), schedule), min(schedule.candidates, len(warm))
    order = np.zeros(0, np.int64)
    for step in range(total):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(events)])
        chosen, order = order[:size], order[size:]
        ahead = rng.geometric(1 - schedule.ahead, size) - 1
        last = seq.indptr[_users_of(seq, chosen) + 1] - 1
        found = seq.items[np.minimum(chosen + ahead, last)].astype(np.int64)
        pace = min(1.0, (step + 1) / WARM_UP) * (0.525 + 0.475 * np.cos(np.pi * step / total))
        yield Batch(
            schedule.rate * float(pace),
            *histories(seq, chosen, recency),
            found,
            rng.choice(warm, few, replace=False),
        )


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


def _trained(
    tables: list[Table],
    batches: Iterator[Batch],
    dims: Sequence[int],
    dial: Dial,
    seed: int,
    schedule: Schedule,
) -> Generator[int]:
    """Train step by step; yield how many there were."""
    rng, some = np.random.default_rng(seed), min(schedule.dims_per_step, len(dims))
    fixed = min(schedule.always, some)
    heat = torch.full((len(dims),), float(np.log(FIRST)), requires_grad=True)
    heating = torch.optim.Adam([heat], lr=HEATING)
    moving = torch.optim.SparseAdam([table.residuals for table in tables], lr=schedule.rate)
    odds = float(np.log(np.count_nonzero(tables[1].trust.numpy())))
    for step, batch in enumerate(batches, start=1):
        moving.param_groups[0]["lr"] = batch.rate
        rest = rng.choice(len(dims) - fixed, some - fixed, replace=False)
        picked = [*range(fixed), *(fixed + rest)]
        heats = heat.exp().clamp(COOLEST, WARMEST)
        loss = _loss(tables, batch, [(dims[k], heats[k]) for k in picked], odds, dial)
        for optimiser in (heating, moving):
            optimiser.zero_grad()
        loss.backward()
        for optimiser in (heating, moving):
            optimiser.step()
        yield step


def _loss(
    tables: list[Table], batch: Batch, dims: list[tuple[int, Tensor]], odds: float, dial: Dial
) -> Tensor:
    """Mean over dims of the cross-entropy of what followed against the candidates drawn.

    odds: log of how many items candidates are drawn of, for whom they stand.
    """
    seen, inside = np.unique(batch.items, return_inverse=True)
    wanted, among = np.unique(np.append(batch.next, batch.candidates), return_inverse=True)
    context, target = (
        table.rows[items] + _added(table, items, dial)
        for table, items in zip(tables, map(torch.from_numpy, (seen, wanted)), strict=True)
    )
    target = functional.normalize(target, dim=1)[torch.from_numpy(among)]
    same = torch.from_numpy(batch.next[:, None] == batch.candidates)
    correction = odds - float(np.log(len(batch.candidates)))
    bags = [torch.from_numpy(each) for each in (inside, batch.offsets, batch.weights)]
    losses: list[Tensor] = []
    for dim, temperature in dims:
        users = _users(context[:, : dim - 1], bags) / temperature
        found = _reached(target[:, : dim - 1])
        own, others = found[: len(batch.next)], found[len(batch.next) :]
        right = (users * own).sum(1)
        wrong = (users @ others.T + correction).masked_fill(same, -torch.inf)
        every = torch.cat([right[:, None], wrong], dim=1)
        losses.append((torch.logsumexp(every, dim=1) - right).mean())
    return torch.stack(losses).mean()


def _users(context: Tensor, bags: list[Tensor]) -> Tensor:
    """Return the unit rows of histories: the weighted sum of unit prefixes."""
    rows = functional.normalize(context, dim=1)
    items, offsets, weights = bags
    found = functional.embedding_bag(items, rows, offsets, mode="sum", per_sample_weights=weights)
    return functional.normalize(found, dim=1)


def _reached(target: Tensor) -> Tensor:
    """Return what a unit prefix of a target vector has behind the coordinate of its reach."""
    slack = (1 - REACH**2) / REACH**2
    return target / (slack + (target * target).sum(1, keepdim=True)).sqrt()
