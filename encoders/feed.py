"""Keeps the model busy: items are decoded and tokenised beside it, ahead of it, in bounded memory.

A batch goes through three steps. Its items are prepared, some per task; prepared items are sorted
by size and cut into groups of one forward each; groups are collated and run. On a CPU one pool of a
thread per core does all of it, with each forward confined to its thread: no core waits for another
one's share of an operator, and none idles while a picture is decoded. Elsewhere that pool only
prepares, and one thread talks to the device. Batches come out in order, and a batch's outcomes do
not depend on the batches around it.

It knows no model and no table.
"""

import os
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

from encoders.encoder import Encoder, Item, ItemError, Model, Outcome, Prepared, Vectors, each
from encoders.room import Room, out_of_memory

T = TypeVar("T")
CHUNK = 16  # items per task of preparing
RAW_BYTES = 256 << 20  # of pictures not yet decoded, at most; one chunk may exceed it
AHEAD = 2  # batches that are being prepared or run while one is collected
MAX_THREADS = 16

Ready = list[Prepared | ItemError]


def encode(encoder: Encoder, items: Sequence[Item]) -> Vectors:
    """Return float32 [len(items), dim]; row i is items[i]; every row has norm 1.

    Raises ItemError, with its row, for the first item that is refused.
    """
    (outcomes,) = run(encoder, [items])
    rows = np.empty((len(items), encoder.dim), np.float32)
    for row, outcome in enumerate(outcomes):
        if outcome.refusal is not None:
            outcome.refusal.row = row
            raise outcome.refusal
        rows[row] = outcome.value
    return rows


def run(
    model: Model[T],
    batches: Iterable[Iterable[Item]],
    *,
    threads: int | None = None,
    room: Room | None = None,
) -> Generator[list[Outcome[T]], None, None]:
    """Yield per batch what became of each of its items, in order.

    threads: as many as there are cores for this process, unless given. room: that of an earlier
    call with this model, whose forwards then need no rehearsal. Batches are read in the caller's
    thread.
    """
    with _pools(model, threads) as pools:
        feed = _Feed(model, pools, room or Room(model.room, model.device))
        prepared: deque[_Batch[T]] = deque()
        running: deque[_Batch[T]] = deque()
        for batch in batches:
            prepared.append(feed.prepare(batch))
            if len(prepared) == AHEAD:
                running.append(feed.start(prepared.popleft()))
            if len(running) == AHEAD:
                yield running.popleft().outcomes()
        for batch in prepared:
            running.append(feed.start(batch))
        while running:
            yield running.popleft().outcomes()


def available_cores() -> int:
    """Return how many cores this process may use, OMP_NUM_THREADS and MAX_THREADS respected."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(allowed or 1, int(asked) if asked.isdigit() and int(asked) else MAX_THREADS)


@contextmanager
def _pools(model: Model[T], threads: int | None) -> Iterator["_Pools"]:
    """Start the pools for a model; its torch operators have one thread each while they are up."""
    threads = threads or available_cores()
    torch = sys.modules.get("torch")  # a model without torch needs none of this
    before = torch.get_num_threads() if torch else 0
    alone = partial(torch.set_num_threads, 1) if torch else None
    preparing = ThreadPoolExecutor(threads, "encode", alone)
    pools = _Pools(preparing, preparing, threads)
    if model.device != "cpu":
        pools = _Pools(preparing, ThreadPoolExecutor(1, "device"), 1)
    try:
        yield pools
    finally:
        pools.running.shutdown(cancel_futures=True)
        preparing.shutdown(cancel_futures=True)
        if torch:
            torch.set_num_threads(before)  # also what threads yet to start take as theirs


@dataclass(frozen=True, slots=True)
class _Pools:
    """Who prepares, who runs, and how many forwards that makes at once; one pool on a CPU."""

    preparing: ThreadPoolExecutor
    running: ThreadPoolExecutor
    forwards: int


@dataclass
class _Batch(Generic[T]):
    """A batch on its way: chunks being prepared, then groups being run."""

    chunks: list[Future[Ready]]
    ready: Ready = field(default_factory=list)
    groups: list[tuple[list[int], Future[list[T | ItemError]]]] = field(default_factory=list)

    def outcomes(self) -> list[Outcome[T]]:
        """Wait for the forwards; return what became of each item, in order."""
        values: list[T | Prepared | ItemError] = [*self.ready]
        for rows, group in self.groups:
            for row, value in zip(rows, group.result(), strict=True):
                values[row] = value
        return [_outcome(*pair) for pair in zip(self.ready, values, strict=True)]


def _outcome(prepared: Prepared | ItemError, value: Any) -> Outcome[Any]:
    if isinstance(value, ItemError):
        return Outcome(None, value)
    assert isinstance(prepared, Prepared)
    return Outcome(value, None, prepared.cut)


class _Feed(Generic[T]):
    """The two pools at work for one model."""

    def __init__(self, model: Model[T], pools: _Pools, room: Room) -> None:
        self._model, self._pools, self._room = model, pools, room
        self._raw: deque[tuple[Future[Ready], int]] = deque()

    def prepare(self, batch: Iterable[Item]) -> _Batch[T]:
        """Start to prepare a batch; wait while too many pictures are undecoded."""
        stream, chunks = iter(batch), []
        while chunk := list(islice(stream, CHUNK)):
            chunks.append(self._pools.preparing.submit(each, self._model.prepare, chunk))
            self._raw.append((chunks[-1], sum(len(item.image or b"") for item in chunk)))
            self._await_decoding()
        return _Batch(chunks)

    def _await_decoding(self) -> None:
        while self._raw and self._raw[0][0].done():
            self._raw.popleft()
        while len(self._raw) > 1 and sum(size for _, size in self._raw) > RAW_BYTES:
            wait([self._raw.popleft()[0]])

    def start(self, batch: _Batch[T]) -> _Batch[T]:
        """Wait until a batch is prepared; start its forwards."""
        batch.ready = [item for chunk in batch.chunks for item in chunk.result()]
        batch.chunks.clear()
        sound = {row: p for row, p in enumerate(batch.ready) if isinstance(p, Prepared)}
        if len(sound) > 1:
            self._rehearse(max(sound.values(), key=lambda p: p.size * p.rows))
        # Where forwards are small anyway, nothing is padded to its neighbours' size: padding would
        # change the order of sums, so that a vector would depend on what it was encoded beside.
        exact = self._model.device == "cpu"
        for rows in groups(sound, self._room.size, exact=exact):
            batch.groups.append((rows, self._submit([sound[row] for row in rows])))
        return batch

    def _rehearse(self, largest: Prepared) -> None:
        def forward(copies: int) -> None:
            self._pools.running.submit(self._forward, [largest] * copies).result()

        size = largest.size * largest.rows
        self._room.rehearse(size, forward, at_once=self._pools.forwards)

    def _submit(self, group: list[Prepared]) -> Future[list[T | ItemError]]:
        pools = self._pools
        if pools.preparing is pools.running:
            return pools.running.submit(self._forward, group)
        collated = pools.preparing.submit(self._collate, group)
        return pools.running.submit(self._forward, group, collated)

    def _collate(self, group: list[Prepared]) -> Any:
        return self._model.collate([each.content for each in group])

    def _forward(
        self, group: list[Prepared], collated: Future[Any] | None = None
    ) -> list[T | ItemError]:
        """Run a group; what does not fit into memory is run in halves."""
        try:
            batch = collated.result() if collated else self._collate(group)
            return list(self._model.forward(batch))
        except Exception as error:
            if not out_of_memory(error):
                raise
        # Outside of `except`, whose traceback would keep the tensors that did not fit.
        self._room.failed(sum(each.rows for each in group) * max(each.size for each in group))
        if len(group) == 1:
            return [TooLarge()]
        half = len(group) // 2
        return [*self._forward(group[:half]), *self._forward(group[half:])]


class TooLarge(ItemError):
    """An item whose forward does not fit into memory, even alone."""

    reason = "out_of_memory"
    lasting = False  # another day there may be more

    def __init__(self, why: str = "the model ran out of memory on this item alone") -> None:
        super().__init__(why)


def groups(
    prepared: Mapping[int, Prepared], room: int, *, exact: bool = False
) -> Iterator[list[int]]:
    """Yield keys, smallest sizes first, in groups of sum(rows) * max(sizes) <= room.

    One that is larger than the room is a group of its own. exact: all of a group have one size.
    """
    group: list[int] = []
    rows = size = 0
    for key in sorted(prepared, key=lambda key: prepared[key].size):
        one = prepared[key]
        rows += one.rows
        if group and (rows * one.size > room or (exact and one.size != size)):
            yield group
            group, rows = [], one.rows
        group.append(key)
        size = one.size
    if group:
        yield group
