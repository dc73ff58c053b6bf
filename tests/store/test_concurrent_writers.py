"""Four processes upsert the same new ids behind a barrier, two read: with the lock and without."""

import multiprocessing
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from store.tables import Tables
from tests.store.shelf import Unlocked

WRITERS, READERS, IDS = 4, 2, 2000
ROUNDS = [4, pytest.param(20, marks=pytest.mark.slow)]
KINDS: Mapping[str, type[Tables]] = {"locked": Tables, "unlocked": Unlocked}


def rows(number: int, writer: int) -> pa.Table:
    ids = [f"{number}-{place}" for place in range(IDS)]
    return pa.table({"item_id": ids, "round": np.full(IDS, number), "writer": np.full(IDS, writer)})


def torn(read: pa.Table) -> list[dict[str, object]]:
    """Return the rounds of which a read has not all rows, some twice, or those of two commits."""
    groups = read.group_by("round").aggregate(
        [("item_id", "count"), ("item_id", "count_distinct"), ("writer", "count_distinct")]
    )
    whole = {"item_id_count": IDS, "item_id_count_distinct": IDS, "writer_count_distinct": 1}
    return [group for group in groups.to_pylist() if {**group, **whole} != group]


def write(folder: Path, rounds: int, writer: int, barrier: Barrier, channel: Connection) -> None:
    for name, kind in KINDS.items():
        tables = kind(folder / name, lock_wait=60)
        versions = []
        for number in range(rounds):
            new = rows(number, writer)
            barrier.wait(60)
            versions.append(tables.upsert("items", new))
        channel.send(versions)


def read(folder: Path, over: Event, channel: Connection) -> None:
    seen: dict[str, list[int]] = {name: [] for name in KINDS}
    wrong = []
    while not over.is_set():
        for name, versions in seen.items():
            tables = Tables(folder / name)
            version = tables.version("items")
            first, again = (tables.read("items", version=version) for _ in range(2))
            versions.append(version)
            wrong += torn(first)
            assert first.equals(again)
    channel.send((seen, wrong))


@pytest.fixture(scope="module", params=ROUNDS)
def race(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict:
    rounds = request.param
    folder, context = tmp_path_factory.mktemp("race"), multiprocessing.get_context("spawn")
    for name, kind in KINDS.items():
        kind(folder / name).upsert("items", rows(-1, -1))
    over, barrier = context.Event(), context.Barrier(WRITERS)
    pipes = [context.Pipe(duplex=False) for _ in range(WRITERS + READERS)]
    started = [
        context.Process(target=write, args=(folder, rounds, writer, barrier, pipes[writer][1]))
        for writer in range(WRITERS)
    ]
    started += [
        context.Process(target=read, args=(folder, over, pipe[1])) for pipe in pipes[WRITERS:]
    ]
    for process in started:
        process.start()
    for _, theirs in pipes:
        theirs.close()  # so that a process that dies ends the wait for it
    versions = {name: [ours.recv() for ours, _ in pipes[:WRITERS]] for name in KINDS}
    over.set()
    reads = [ours.recv() for ours, _ in pipes[WRITERS:]]
    for process in started:
        process.join(60)
    return {"folder": folder, "rounds": rounds, "versions": versions, "reads": reads}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_that_four_writers_add_at_once_are_there_once(race: dict, kind: str):
    read = Tables(race["folder"] / kind).read("items")
    assert read.num_rows == len(read["item_id"].unique()) == (race["rounds"] + 1) * IDS
    assert torn(read) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_version_that_a_writer_is_told_holds_its_rows(race: dict, kind: str):
    tables = Tables(race["folder"] / kind)
    for writer, versions in enumerate(race["versions"][kind]):
        assert len(versions) == race["rounds"]
        for number, version in enumerate(versions):
            mine = f"round = {number} AND writer = {writer}"
            assert tables.count("items", where=mine, version=version) == IDS


@pytest.mark.parametrize("kind", KINDS)
def test_readers_beside_four_writers_see_whole_commits_only(race: dict, kind: str):
    for seen, wrong in race["reads"]:
        assert wrong == []
        assert (
            len(set(seen[kind])) > race["rounds"] / 2
        )  # they did read while versions came and went
