"""Packs: a reader's memory-mapped copy of one view of one release, at one granularity.

It knows files, rows and ids. A pack is a cache, never truth: built from the pinned table version
when first asked for, under a file lock, proven by checksums before a row is read from it, built
anew when damaged, and shared between processes by the page cache.

A vector file holds n + 2 rows of float32: zeros, the n items in table order, and the unit mean of
all items. So row 0 is what an unknown id reads, and padding or out-of-vocabulary rows cost no copy.

There is one file per granularity, not a full-width file read by prefix: of 100,000 256-wide rows,
10,000 take 0.9 ms at 128 from their own file, 2.0 ms out of the wide one, and 25 ms when each has
to be rescaled on the way; a full scan takes 9 ms against 190 ms.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from matryoshka.prefix import Vectors, prefix
from store import _lookup, aside, index, plain, sealed
from store.ann import Nearby
from store.errors import BadPack
from store.filter import Filter, RowIds
from store.forks import forked
from store.index import Index
from store.lock import file_lock
from store.paths import cache_folder
from store.releases import Release
from store.schema import matrix, positions
from store.sealed import Sealed
from store.tables import Tables

IDLE_DAYS = 7  # packs of releases that nobody has opened for so long are removed
DISK_SHARE = 4  # and those used longest ago, while all fill more than a quarter of the disk
BUILD_WAIT = 600.0  # seconds to wait for another process that is building the same pack
BATCH = 4096  # rows read at once while building: their prefixes stay in the CPU's cache
NAMES, INDEX = "names", "ids.index"
NOTHING = np.empty(0, np.int64)


class Rows:
    """A mapped vector file: float32 [n + 2, dim], in blocks of whole rows."""

    def __init__(self, file: Sealed, dim: int) -> None:
        self.file = file
        self.vectors: Vectors = file.data.view(np.float32).reshape(-1, dim)
        self.row_bytes = 4 * dim
        self.shift = (file.block // self.row_bytes).bit_length() - 1

    def take(self, rows: NDArray[np.int64], out: Vectors) -> bool:
        """Copy rows into `out`, float32 [len(rows), dim]; False when one of them is unproven."""
        return _lookup.gather(self.vectors, self.row_bytes, rows, out, self.file.seen, self.shift)

    def blocks(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the blocks that rows lie in."""
        return rows >> self.shift


class Packs:
    """The ids, titles and vectors of one release."""

    def __init__(self, tables: Tables, release: Release) -> None:
        self.release = release
        self._tables = tables
        self._version = release.tables["item_vectors"]
        self._places: dict[object, tuple[str, int]] = {}
        self._mapped: dict[tuple[str, int], Rows] = {}
        self._building, self._process = threading.Lock(), os.getpid()

    @cached_property
    def names(self) -> pa.Table:
        """The item ids in table order and, if the release has items, their titles."""
        data = self._file(self._folder / NAMES, self._read_names).data
        return pa.ipc.open_stream(pa.py_buffer(data)).read_all()

    @property
    def ids(self) -> pa.Array:
        """The item ids in table order."""
        return self.names["item_id"].chunk(0)

    @cached_property
    def index(self) -> Index:
        """The id to row map."""
        return Index(self._file(self._folder / INDEX, lambda: index.build(self.ids)).data)

    @cached_property
    def nearby(self) -> Nearby:
        """The search index of the release."""
        return Nearby(self._tables, self._version, self.release.description["search"]["index"])

    @cached_property
    def filter(self) -> Filter:
        """The pinned `items`, to be filtered."""
        items = self._tables.dataset("items", version=self.release.tables["items"])
        held = items.scanner(columns=["_rowid", "item_id"]).to_table()
        rows = self.index.rows(held["item_id"].to_pylist())
        return Filter(items, RowIds(held["_rowid"].to_numpy(), rows))

    def place(self, view: str | None, role: str, dim: int | None) -> tuple[str, int]:
        """Return the column and the granularity that a read means; refused if not published."""
        key = (view, role, dim, type(dim))  # a bool equals an int and is none
        try:
            return self._places[key]
        except (KeyError, TypeError):  # TypeError: unhashable, so not published either
            place = self.release.column(view, role), self.release.dim(dim)
            self._places[key] = place
            return place

    def take(self, column: str, dim: int, rows: NDArray[np.int64], out: Vectors) -> Vectors:
        """Fill `out`, C-contiguous float32 [len(rows), dim], with a column's rows."""
        mapped = self._mapped.get((column, dim)) or self._map(column, dim)
        while not mapped.take(rows, out):
            mapped = self._prove(column, dim, mapped.blocks(rows))
        return out

    def vectors(self, column: str, dim: int) -> Vectors:
        """Return a column's rows at a granularity, float32 [n + 2, dim], mapped read-only."""
        self._map(column, dim)
        return self._prove(column, dim, None).vectors

    def prepare(self, like: "Packs") -> None:
        """Map, and build where needed, what has been read of another release so far."""
        _ = self.index
        for column, dim in list(like._mapped):
            if column in self.release.columns() and dim in self.release.dims:
                self._map(column, dim)

    def build(self, file: str) -> None:
        """Build, unless it is there and whole, the file of that name."""
        if file.endswith(".f32"):
            column, dim, _ = file.rsplit(".", 2)
            self.vectors(column, int(dim))
        else:
            _ = self.names if file == NAMES else self.index

    def private(self, column: str, dim: int) -> Vectors:
        """Return the same rows in a map of the caller's own: changes stay in its memory."""
        shape = self.vectors(column, dim).shape
        path = self._mapped[column, dim].file.path
        return np.memmap(path, np.float32, "c", shape=shape).view(np.ndarray)

    def _map(self, column: str, dim: int) -> Rows:
        with self._one_builder():
            if (column, dim) not in self._mapped:
                self._mapped[column, dim] = self._vector_file(column, dim, NOTHING)
        return self._mapped[column, dim]

    def _prove(self, column: str, dim: int, blocks: NDArray[np.int64] | None) -> Rows:
        """Return the file with these blocks proven, built anew if they are damaged."""
        mapped = self._mapped[column, dim]
        try:
            mapped.file.check(blocks)
        except sealed.Damaged:
            mapped = self._mapped[column, dim] = self._vector_file(column, dim, blocks)
        return mapped

    def _vector_file(self, column: str, dim: int, blocks: NDArray[np.int64] | None) -> Rows:
        path = self._folder / f"{column}.{dim}.f32"
        rows = max(1, sealed.BLOCK // (4 * dim))
        block = 4 * dim << (rows.bit_length() - 1)  # a power of two of rows
        file = self._file(path, lambda: self._read_rows(column, dim), blocks, block=block)
        return Rows(file, dim)

    def _one_builder(self) -> threading.Lock:
        if self._process != os.getpid():  # forked: who held the lock is not here to free it
            self._building, self._process = threading.Lock(), os.getpid()
        return self._building

    @cached_property
    def _folder(self) -> Path:
        local = self._tables.folder
        home = local if local and os.access(local, os.W_OK) else cache_folder(self._tables.uri)
        folder = home / "packs" / self.release.stamp
        if folder.is_dir():
            os.utime(folder)  # used now
        return folder

    def _file(
        self,
        path: Path,
        content: Callable[[], Iterable[memoryview]],
        blocks: NDArray[np.int64] | None = None,
        *,
        block: int = sealed.BLOCK,
    ) -> Sealed:
        """Map a file whose blocks (None: all) are proven, built first when absent or damaged."""
        if (file := _sound(path, blocks)) is not None:
            return file
        if forked():
            aside.build(self._tables, self.release, path.name)
            return _sure(path, blocks)
        try:
            with file_lock(path.parent / ".lock", what=f"the pack {path}", wait=BUILD_WAIT):
                if (file := _sound(path, blocks)) is not None:
                    return file
                for draft in path.parent.glob(f"{path.name}.*.draft"):  # of a killed builder
                    draft.unlink()
                sealed.write(path, content(), block=block)
                _evict(path.parent)
        except OSError as error:
            raise BadPack(
                f"{path} cannot be written: {error.strerror or error}; make room, or set "
                "XDG_CACHE_HOME to a folder with room and the store's folder to read-only"
            ) from error
        return _sure(path, blocks)

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

    def _read_rows(self, column: str, dim: int) -> Iterator[memoryview]:
        ids = self._tables.read("item_vectors", columns=["item_id"], version=self._version)
        if not ids["item_id"].combine_chunks().equals(self.ids):
            raise BadPack(f"{self.release.name}: the rows of {column} are of other items")
        done, total = 0, np.zeros((1, dim))
        yield np.zeros((1, dim), np.float32).data
        for rows in self._stored(column):
            vectors = _prefix(rows, dim)
            done, total = done + len(vectors), total + vectors.sum(axis=0, dtype=np.float64)
            yield vectors.data
        if done != len(self.ids):
            raise BadPack(f"{self.release.name}: {column} has {done} rows for {len(self.ids)} ids")
        yield prefix(total.astype(np.float32), dim).data

    def _stored(self, column: str) -> Iterator[Vectors]:
        """Yield a column's full-width rows, some at a time."""
        if self._tables.folder:
            data = self._tables.dataset("item_vectors", version=self._version)
            if (maps := plain.mapped(data, column)) is not None:
                for rows in maps:
                    yield from (rows[at : at + BATCH] for at in range(0, len(rows), BATCH))
                return
        batches = self._tables.batches(
            "item_vectors", columns=[column], version=self._version, batch_size=BATCH
        )
        yield from (matrix(batch[column]) for batch in batches)


def _prefix(vectors: Vectors, dim: int) -> Vectors:
    """Return what `matryoshka.prefix` does, within float32 rounding, ten times as fast."""
    head = np.empty((len(vectors), dim), np.float32)
    _lookup.prefix_rows(np.ascontiguousarray(vectors), vectors.shape[1], head, dim)
    return head


def _sure(path: Path, blocks: NDArray[np.int64] | None) -> Sealed:
    if (file := _sound(path, blocks)) is None:
        raise BadPack(f"{path} does not read back as it was written: check the disk")
    return file


def _sound(path: Path, blocks: NDArray[np.int64] | None) -> Sealed | None:
    file = sealed.read(path)
    try:
        if file is not None:
            file.check(blocks)
    except sealed.Damaged:
        return None
    return file


def _evict(used: Path) -> None:
    """Remove other releases' packs by age and size; who has them mapped keeps reading them."""
    room = shutil.disk_usage(used).total // DISK_SHARE - _bytes(used)
    others = [path for path in used.parent.iterdir() if path != used]
    for path in sorted(others, key=_last_used, reverse=True):
        room -= _bytes(path)
        if room < 0 or time.time() - _last_used(path) > IDLE_DAYS * 86400:
            shutil.rmtree(path, ignore_errors=True)


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process has just removed it
        return 0.0


def _bytes(folder: Path) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except FileNotFoundError:
        return 0
