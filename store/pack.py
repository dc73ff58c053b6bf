"""Packs: a reader's memory-mapped copy of one view of one release, at one granularity.

It knows files, rows and ids. A pack is a cache, never truth: built from the pinned table version
when first asked for, under a file lock, checked by checksum when mapped, built anew when damaged,
and shared between processes by the page cache.

A vector file holds n + 2 rows of float32: zeros, the n items in table order, and the unit mean of
all items. So row 0 is what an unknown id reads, and padding or out-of-vocabulary rows cost no copy.

There is one file per granularity, not a full-width file read by prefix: of 100,000 256-wide rows,
10,000 take 0.9 ms at 128 from their own file, 2.0 ms out of the wide one, and 25 ms when each has
to be rescaled on the way; a full scan takes 9 ms against 190 ms.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import repeat
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from matryoshka.prefix import Vectors, prefix
from store import sealed
from store.errors import BadPack
from store.lock import WriterLock
from store.paths import cache_folder
from store.releases import Release
from store.schema import matrix, positions
from store.tables import Tables

KEPT = 4  # releases whose packs stay on disk: the ones used last
BUILD_WAIT = 600.0  # seconds to wait for another process that is building the same pack


class Index:
    """From item id to row: 1 for the first item, 0 for an id that is not there."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._rows = {item: row for row, item in enumerate(ids, start=1)}

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of every id, repeats and order kept."""
        return np.fromiter(map(self._rows.get, ids, repeat(0)), np.int64, len(ids))


class Packs:
    """The ids, titles and vectors of one release."""

    def __init__(self, tables: Tables, release: Release) -> None:
        self.release = release
        self._tables = tables
        self._version = release.tables["item_vectors"]
        self._mapped: dict[tuple[str, int], Vectors] = {}
        self._building = threading.Lock()

    @cached_property
    def names(self) -> pa.Table:
        """The item ids in table order and, if the release has items, their titles."""
        data = self._file(self._folder / "names", self._read_names)
        return pa.ipc.open_stream(pa.py_buffer(data)).read_all()

    @property
    def ids(self) -> pa.Array:
        """The item ids in table order."""
        return self.names["item_id"].chunk(0)

    @cached_property
    def index(self) -> Index:
        """The id to row map."""
        return Index(self.ids.to_pylist())

    def vectors(self, column: str, dim: int) -> Vectors:
        """Return a column's rows at a granularity, float32 [n + 2, dim], mapped read-only."""
        if (column, dim) not in self._mapped:
            with self._building:
                if (column, dim) not in self._mapped:
                    self._mapped[column, dim] = self._map(column, dim)
        return self._mapped[column, dim]

    def private(self, column: str, dim: int) -> Vectors:
        """Return the same rows in a map of the caller's own: changes stay in its memory."""
        shape = self._map(column, dim).shape
        path = self._folder / _file_name(column, dim)
        return np.memmap(path, np.float32, "c", shape=shape).view(np.ndarray)

    def _map(self, column: str, dim: int) -> Vectors:
        path = self._folder / _file_name(column, dim)
        data = self._file(path, lambda: self._rows(column, dim))
        return data.view(np.float32).reshape(-1, dim)

    @cached_property
    def _folder(self) -> Path:
        local = self._tables.folder
        home = local if local and os.access(local, os.W_OK) else cache_folder(self._tables.uri)
        folder = home / "packs" / self.release.stamp
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # used now
        _evict(folder.parent)
        return folder

    def _file(self, path: Path, content: Callable[[], Iterable[memoryview]]) -> NDArray[np.uint8]:
        """Map a file of the pack, built first when it is absent or damaged."""
        if (data := sealed.read(path)) is not None:
            return data
        with WriterLock(path.parent / ".lock", what=f"the pack {path}", wait=BUILD_WAIT):
            if (data := sealed.read(path)) is not None:
                return data
            for draft in path.parent.glob(f"{path.name}.*.draft"):  # of a killed builder
                draft.unlink()
            sealed.write(path, content())
        if (data := sealed.read(path)) is None:
            raise BadPack(f"{path} does not read back as it was written: check the disk")
        return data

    def _read_names(self) -> Iterator[memoryview]:
        rows = self._tables.read("item_vectors", columns=["item_id"], version=self._version)
        names = pa.table({"item_id": rows["item_id"].combine_chunks()})
        if (version := self.release.tables.get("items")) is not None:
            items = self._tables.read("items", columns=["item_id", "title"], version=version)
            places = positions(names["item_id"].chunk(0), items["item_id"])
            names = names.append_column("title", items["title"].take(places))
        names = names.combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, names.schema) as stream:
            stream.write_table(names)
        yield memoryview(sink.getvalue())

    def _rows(self, column: str, dim: int) -> Iterator[memoryview]:
        done, total = 0, np.zeros((1, dim))
        yield np.zeros((1, dim), np.float32).data
        batches = self._tables.batches(
            "item_vectors", columns=["item_id", column], version=self._version
        )
        for batch in batches:
            same = self.ids.slice(done, batch.num_rows)
            if not batch["item_id"].equals(same):
                raise BadPack(f"{self.release.name}: rows {done}… of {column} are of other items")
            vectors = prefix(matrix(batch[column]), dim)
            done, total = done + len(vectors), total + vectors.sum(axis=0, dtype=np.float64)
            yield vectors.data
        if done != len(self.ids):
            raise BadPack(f"{self.release.name}: {column} has {done} rows for {len(self.ids)} ids")
        yield prefix(total.astype(np.float32), dim).data


def _file_name(column: str, dim: int) -> str:
    return f"{column}.{dim}.f32"


def _evict(folder: Path) -> None:
    """Remove the packs used longest ago; who has them mapped keeps reading them."""
    for path in sorted(folder.iterdir(), key=_last_used, reverse=True)[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process has just removed it
        return 0.0
