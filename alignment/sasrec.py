"""Consumer B, a small SASRec of fixed definition: a trained reader of frozen item vectors.

Only what it reads changes, so it measures vectors; `train_ids` trains the table of items along and
is the reference. Like consumer A it scores histories for `consumer.rank`. It knows vectors and row
numbers only.

What the definition leaves open: Linears of items have no bias (an offset of every item changes no
softmax, and positions have one already); positions count from the oldest event kept; layers start
as torch starts them, positions and learned items from N(0, .02); learned items are read and scored
as they are, without a Linear.
"""

import copy
import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignment.consumer import Matrix, figures, rank, trial
from alignment.interactions import Ints, Rows, Sequences, Split
from alignment.softmax import cross_entropy, fastest
from matryoshka.prefix import Vectors, unit
from matryoshka.train import reproducible

WIDTH, LAYERS, HEADS = 128, 2, 2
LONGEST = 50  # events that are read, the latest
BATCH = 256  # users
WARM_UP = 100  # steps, or a quarter of all steps if that is less
CLIP, DECAY = 5.0, 0.01
Runs = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Regime:
    """How to train: the best of the `checks` (epochs) on validation is kept.

    patience: checks without a better one before training ends; fades: the rate, by a cosine to 0.
    """

    rate: float
    dropout: float
    checks: Sequence[int]
    patience: int
    fades: bool


FROZEN = Regime(rate=4e-3, dropout=0.2, checks=(5, 8, 10), patience=3, fades=True)
LEARNED = Regime(rate=1e-3, dropout=0.5, checks=range(2, 41, 2), patience=3, fades=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """Histories one after the other, the short ones first, so that nothing is padded.

    items, positions: int [t]; runs: (users, length) of histories of one length; order: the places
    the histories had, [users].
    """

    items: Tensor
    positions: Tensor
    runs: Runs
    order: Ints

    @property
    def last(self) -> Tensor:
        """Where every history ends, int [users]."""
        lengths = [length for users, length in self.runs for _ in range(users)]
        return torch.tensor(lengths).cumsum(0) - 1


class FrozenItems(nn.Module):
    """Vectors that stay as they are behind a Linear per role, or one if the roles are equal."""

    def __init__(self, context: Vectors, target: Vectors) -> None:
        super().__init__()
        self.read = self.scored = _linear(context.shape[1])
        self.seen = self.wanted = _scaled(context)
        if not np.array_equal(context, target):
            self.scored, self.wanted = _linear(target.shape[1]), _scaled(target)

    def context(self, rows: Tensor, /) -> Tensor:
        """Read items as history: int [t] -> float32 [t, WIDTH]."""
        return self.read(self.seen[rows])

    def target(self) -> Tensor:
        """Every item as a candidate, float32 [n, WIDTH]."""
        return self.scored(self.wanted)


class LearnedItems(nn.Module):
    """One trained vector per item, in both roles."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.table = nn.Embedding(n_items, WIDTH)
        nn.init.normal_(self.table.weight, std=0.02)

    def context(self, rows: Tensor, /) -> Tensor:
        """Read items as history: int [t] -> float32 [t, WIDTH]."""
        return self.table(rows)

    def target(self) -> Tensor:
        """Every item as a candidate, float32 [n, WIDTH]."""
        return self.table.weight


def _linear(dim: int) -> nn.Linear:
    linear = nn.Linear(dim, WIDTH, bias=False)
    nn.init.normal_(linear.weight, std=0.02 * math.sqrt(WIDTH / dim))
    return linear


def _scaled(vectors: Vectors) -> Tensor:
    return torch.from_numpy(unit(vectors)) * math.sqrt(vectors.shape[1])


class Layer(nn.Module):
    """A pre-LN transformer layer over histories, each event blind to later ones."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.roles, self.mix = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.drop = nn.Dropout(dropout)

    def forward(self, states: Tensor, runs: Runs) -> Tensor:
        """States [t, WIDTH] of histories in `runs` -> the same shape."""
        mixed = self.mix(self._attend(self.roles(self.before(states)), runs))
        states = states + self.drop(mixed)
        inner = self.drop(functional.gelu(self.wide(self.between(states))))
        return states + self.drop(self.narrow(inner))

    def _attend(self, roles: Tensor, runs: Runs) -> Tensor:
        """Queries, keys and values [t, 3 * WIDTH] -> [t, WIDTH]; a run at a time needs no mask."""
        found: list[Tensor] = []
        for part, run in zip(roles.split([n * length for n, length in runs]), runs, strict=True):
            query, key, value = part.view(*run, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
            chance = self.drop.p if self.training else 0.0
            heads = functional.scaled_dot_product_attention(
                query, key, value, dropout_p=chance, is_causal=True
            )
            found.append(heads.transpose(1, 2).reshape(-1, WIDTH))
        return torch.cat(found)


class Network(nn.Module):
    """Histories -> the state after every event, [t, WIDTH], to be multiplied with the targets."""

    def __init__(self, items: FrozenItems | LearnedItems, dropout: float) -> None:
        super().__init__()
        self.items = items
        self.places = nn.Embedding(LONGEST, WIDTH)
        nn.init.normal_(self.places.weight, std=0.02)
        self.first, self.last = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(dropout) for _ in range(LAYERS))

    def forward(self, batch: Batch) -> Tensor:
        """Read a batch: the state after every event, float32 [t, WIDTH]."""
        states = self.items.context(batch.items) * math.sqrt(WIDTH) + self.places(batch.positions)
        states = self.drop(self.first(states))
        for layer in self.layers:
            states = layer(states, batch.runs)
        return self.last(states)


@dataclass(frozen=True, slots=True)
class Recommender:
    """The network as it was after `epoch`, its unmasked validation N@10, and what training took."""

    network: Network
    epoch: int
    validation: float
    seconds: float

    def score(self, histories: Matrix) -> Vectors:
        """Score weighted histories [users, n], as a Trial holds them -> float32 [users, n].

        It is a `consumer.Score`. Later events weigh more, which is how their order is known. A user
        without events scores every item 0.
        """
        return _score(self.network, histories)

    def rows(self) -> tuple[Vectors, Vectors]:
        """Items as they are read and as they are scored, float32 [n, WIDTH] each, not unit rows.

        Where they were learned, both are the learned table.
        """
        with torch.no_grad():
            target = self.network.items.target()
            context = self.network.items.context(torch.arange(len(target)))
        return context.numpy(), target.detach().numpy().copy()


def train(
    context: Vectors, target: Vectors, split: Split, *, seed: int, dropout: float = FROZEN.dropout
) -> Recommender:
    """Train on vectors [n, d], prefixes already, that stay as they are; equal roles share a Linear.

    Rows are rescaled to unit length. Learns from split.train, chooses the epoch on validation.
    ValueError for another number of rows than items, or a log in which no user has two events.
    """
    if not len(context) == len(target) == split.train.n_items:
        have = f"{len(context)} context and {len(target)} target rows"
        raise ValueError(f"{have} for {split.train.n_items} items: give one each")
    with _seeded(seed):
        network = Network(FrozenItems(context, target), dropout)
        return _fit(network, split, FROZEN, seed=seed)


def train_ids(split: Split, *, seed: int, dropout: float = LEARNED.dropout) -> Recommender:
    """Train the same network with a learned vector per item: the reference, in its own regime.

    ValueError for a log in which no user has two events.
    """
    with _seeded(seed):
        network = Network(LearnedItems(split.train.n_items), dropout)
        return _fit(network, split, LEARNED, seed=seed)


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    with reproducible(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        memory: Any = torch.utils.deterministic  # a module whose attribute has no type
        filled, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False
        try:  # filling took a twelfth of the time
            yield
        finally:
            memory.fill_uninitialized_memory = filled


def _fit(network: Network, split: Split, regime: Regime, *, seed: int) -> Recommender:
    started, cases = time.perf_counter(), trial(split, on="validation")
    best: Recommender | None = None
    stale = 0
    for epoch in _epochs(network, _sequences(split.train), regime, seed=seed):
        if epoch not in regime.checks:
            continue
        value = figures(rank(lambda some: _score(network, some), cases).unmasked)["N@10"]
        if best is None or value > best.validation:
            seconds = time.perf_counter() - started
            best, stale = Recommender(copy.deepcopy(network), epoch, value, seconds), 0
            continue
        stale += 1
        if stale >= regime.patience:
            break
    assert best is not None
    return replace(best, seconds=time.perf_counter() - started)


def _sequences(train: Sequences) -> list[Rows]:
    """The latest events of every user who has something to predict from something."""
    ends = train.indptr[1:][train.lengths >= 2]
    starts = np.maximum(train.indptr[:-1][train.lengths >= 2], ends - LONGEST - 1)
    if not len(ends):
        raise ValueError("no user has two events to learn from: give a log with longer histories")
    return [train.items[start:end] for start, end in zip(starts, ends, strict=True)]


def _epochs(network: Network, sequences: list[Rows], regime: Regime, *, seed: int) -> Iterator[int]:
    """Train; yield the number of every epoch after it, from 1."""
    rng, dtype = np.random.default_rng(seed), fastest()
    total = regime.checks[-1] * math.ceil(len(sequences) / BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=regime.rate, weight_decay=DECAY)
    pace = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: _pace(step, total, fades=regime.fades)
    )
    for epoch in range(1, regime.checks[-1] + 1):
        network.train()
        order = rng.permutation(len(sequences))
        for start in range(0, len(order), BATCH):
            chosen = [sequences[user] for user in order[start : start + BATCH]]
            states = network(_batch([events[:-1] for events in chosen]))
            targets = _batch([events[1:] for events in chosen]).items
            loss = cross_entropy(states, network.items.target(), targets, dtype=dtype)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimiser.step()
            pace.step()
        yield epoch


def _pace(step: int, total: int, *, fades: bool) -> float:
    """What share of the rate a step has: all of it after a warm-up, fading to none by a cosine."""
    warm = min(WARM_UP, total // 4)
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2 if fades else 1.0


def _batch(histories: Sequence[Rows]) -> Batch:
    """Lay histories, none of them empty, one after the other by length."""
    lengths = np.array([len(events) for events in histories])
    order = np.argsort(lengths, kind="stable")
    counts = zip(*np.unique(lengths, return_counts=True), strict=True)
    items = np.concatenate([histories[user] for user in order]).astype(np.int64)
    positions = np.concatenate([np.arange(length) for length in lengths[order]])
    runs = [(int(users), int(length)) for length, users in counts]
    return Batch(torch.from_numpy(items), torch.from_numpy(positions), runs, order)


def _score(network: Network, histories: Matrix) -> Vectors:
    """Score weighted histories [users, n] -> float32 [users, n]."""
    scores = np.zeros(histories.shape, np.float32)
    known = np.flatnonzero(np.diff(histories.indptr))
    if not len(known):
        return scores
    batch = _batch([_events(histories, int(user)) for user in known])
    network.eval()
    with reproducible(), torch.no_grad():
        states = network(batch)[batch.last]
        scores[known[batch.order]] = (states @ network.items.target().T).numpy()
    return scores


def _events(histories: Matrix, user: int) -> Rows:
    """The latest events of a user, oldest first."""
    row = slice(histories.indptr[user], histories.indptr[user + 1])
    return histories.indices[row][np.argsort(histories.data[row], kind="stable")][-LONGEST:]
