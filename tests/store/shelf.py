"""What the store's tests publish, and the functions they run in other processes."""

import json
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pyarrow as pa

from matryoshka.prefix import unit
from store import ItemStore, releases
from store.schema import item_vectors_table
from store.tables import Tables

DIMS = [4, 8, 16]
WIDTH = 16


def vectors(n: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((n, WIDTH)).astype(np.float32))


def draft(tables: dict[str, int], **changes) -> releases.Draft:
    parts = {
        "space_id": "space",
        "basis_id": "basis",
        "refresh_id": "refresh",
        "inputs": "inputs",
        "tables": tables,
        "description": {
            "dims": DIMS,
            "width": WIDTH,
            "views": {"fused": ["context", "target"], "content": []},
            "default_view": "fused",
        },
        "quality": {"recall": 0.5},
    }
    return releases.Draft(**parts | changes)


def rows(ids: list[str], seed: int = 0) -> pa.Table:
    columns = ("fused_context", "fused_target", "content")
    return item_vectors_table(
        ids, {name: vectors(len(ids), seed + place) for place, name in enumerate(columns)}
    )


def items(ids: list[str]) -> pa.Table:
    return pa.table(
        {
            "item_id": ids,
            "title": [f"Item {item}" for item in ids],
            "price": np.arange(len(ids), dtype=np.float64),
        }
    )


def publish(uri: Path, ids: list[str], seed: int = 0, **changes) -> releases.Release:
    tables = Tables(uri)
    pins = {
        "items": tables.replace("items", items(ids)),
        "item_vectors": tables.replace("item_vectors", rows(ids, seed)),
    }
    return releases.publish(tables, draft(pins, **changes))


IDS_OF_TURNED = [str(number) for number in range(300)]


def turned(number: int) -> np.ndarray:
    """The vector of every item, in both roles, in release `number` of `publish_for_ever`."""
    return np.array([np.cos(number), np.sin(number)], np.float32)


def publish_turned(store: ItemStore, number: int) -> None:
    matrix = np.tile(turned(number), (len(IDS_OF_TURNED), 1))
    release = store.publish_vectors(IDS_OF_TURNED, matrix, context=matrix)
    assert release.name == f"r{number}"


def publish_for_ever(uri: str, channel: Connection) -> None:
    store = ItemStore.create(uri) if not Path(uri).exists() else ItemStore.open(uri)
    number = len(store.releases())
    while True:
        number += 1
        publish_turned(store, number)
        channel.send(f"r{number}")


def work_for_ever(uri: str, channel: Connection) -> None:
    """All that writes to a store, over and over; says what comes next before it begins."""
    store = ItemStore.open(uri)
    tables, number = store.tables, len(store.releases())
    while True:
        channel.send("publish")
        number += 1
        publish_turned(store, number)
        channel.send("add")
        number += 1
        matrix = np.tile(turned(number), (len(IDS_OF_TURNED), 1))
        table = item_vectors_table(IDS_OF_TURNED, {"fused_context": matrix, "fused_target": matrix})
        version = tables.upsert("item_vectors", table)
        last = store.release
        parts = {"description": last.description, "tables": last.tables | {"item_vectors": version}}
        releases.publish(tables, draft(**parts))
        channel.send("compact")
        tables.maintain(releases.pinned(tables, keep=2), grace=timedelta(0))
        channel.send("pack")
        shutil.rmtree(Path(uri) / "packs", ignore_errors=True)
        store.refresh()
        store.get_item_vectors(IDS_OF_TURNED)


class Unlocked(Tables):
    """Writers that no lock keeps apart, as on two machines that share a bucket."""

    def lock(self) -> AbstractContextManager[None]:
        return nullcontext()


def upsert_the_same(uri: str, barrier: Barrier, rounds: int) -> None:
    tables = Unlocked(uri)
    tables.version("items")  # import and connect before the race
    tables.names()
    for number in range(rounds):
        barrier.wait(60)
        tables.upsert("items", items([f"{number}-{place}" for place in range(200)]))


def hold_the_lock(uri: str, channel: Connection) -> None:
    with Tables(uri).lock():
        channel.send(os.getpid())
        channel.recv()


def read_into(path: str, store: ItemStore, ids: list[str], dim: int) -> None:
    answer = store.get_item_vectors(ids, dim)
    Path(path).write_text(json.dumps(answer.tolist()))
