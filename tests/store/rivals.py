"""Writers and readers that tests start beside each other, in processes of their own."""

import multiprocessing
import os
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier, Event

import numpy as np
import pyarrow as pa

from store.errors import ItemnestError
from store.lease import object_lock
from store.tables import Tables


def hold(uri: str, options: dict[str, str], seconds: float, channel: Connection) -> None:
    """Hold the lock; at every message try to write and answer with the error, until `None`."""
    lock = object_lock(uri, options, wait=0, seconds=seconds)
    with lock:
        channel.send(os.getpid())
        while channel.recv():
            try:
                with lock:
                    channel.send("still the holder")
            except ItemnestError as error:
                channel.send(str(error))
    channel.send("let go")


@dataclass(frozen=True)
class Race:
    """Writers that add the same new ids in every round, and readers meanwhile."""

    uri: str
    options: dict[str, str]
    rounds: int
    ids: int
    kind: type[Tables] = Tables

    def rows(self, number: int, writer: int) -> pa.Table:
        ids = [f"{number}-{place}" for place in range(self.ids)]
        rounds, writers = np.full(self.ids, number), np.full(self.ids, writer)
        return pa.table({"item_id": ids, "round": rounds, "writer": writers})

    def write(self, writer: int, barrier: Barrier) -> None:
        tables = self.kind(self.uri, self.options, lock_wait=300)
        for number in range(self.rounds):
            new = self.rows(number, writer)
            barrier.wait(300)
            tables.upsert("items", new)

    def read(self, over: Event, out: Connection) -> None:
        tables, seen, wrong = Tables(self.uri, self.options), set(), Wrong(0, 0)
        while not over.wait(0.05):  # leave the server some time for the writers
            version = tables.version("items")
            wrong += self.wrong(tables.read("items", version=version))
            seen.add(version)
        out.send((len(seen), wrong))

    def wrong(self, read: pa.Table) -> "Wrong":
        """Count the ids that repeat, and the rounds that are there in part or of two writers."""
        groups = read.group_by("round").aggregate(
            [("item_id", "count_distinct"), ("writer", "count_distinct")]
        )
        whole = {"item_id_count_distinct": self.ids, "writer_count_distinct": 1}
        torn = [group for group in groups.to_pylist() if {**group, **whole} != group]
        return Wrong(len(read) - len(read["item_id"].unique()), len(torn))

    def run(self, writers: int, readers: int) -> "tuple[pa.Table, list[tuple[int, Wrong]]]":
        """Return the rows at the end and, of every reader, the versions it saw and its faults."""
        context = multiprocessing.get_context("spawn")
        self.kind(self.uri, self.options).upsert("items", self.rows(-1, -1))
        over, barrier = context.Event(), context.Barrier(writers)
        pipes = [context.Pipe(duplex=False) for _ in range(readers)]
        reading = [context.Process(target=self.read, args=(over, pipe[1])) for pipe in pipes]
        writing = [context.Process(target=self.write, args=(n, barrier)) for n in range(writers)]
        for process in reading + writing:
            process.start()
        for process in writing:
            process.join()
        over.set()
        answers = [ours.recv() for ours, _ in pipes]
        for process in reading:
            process.join()
        assert [process.exitcode for process in writing] == [0] * writers
        return Tables(self.uri, self.options).read("items"), answers


@dataclass(frozen=True)
class Wrong:
    """What a read may not show."""

    repeated: int
    torn: int

    def __add__(self, other: "Wrong") -> "Wrong":
        return Wrong(self.repeated + other.repeated, self.torn + other.torn)
