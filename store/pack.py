"""Packs: a reader's memory-mapped copy of one view of one release, at one granularity.

It knows rows and ids. Where the files are, and how they come and go, `store.packfiles` knows.

A vector file holds n + 2 rows of float32: zeros, the n items in table order, and the unit mean of
all items. So row 0 is what an unknown id reads, and padding or out-of-vocabulary rows cost no copy.

There is one file per granularity, not a full-width file read by prefix: of 100,000 256-wide rows,
10,000 take 0.9 ms at 128 from their own file, 2.0 ms out of the wide one, and 25 ms when each has
to be rescaled on the way; a full scan takes 9 ms against 190 ms.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from matryoshka.prefix import Vectors, prefix
from store import _lookup, index, plain, sealed
from store.ann import Nearby
from store.errors import BadPack
from store.filter import Filter, RowIds
from store.index import Index
from store.packfiles import PackFiles
from store.releases import Release
from store.schema import matrix, positions
from store.sealed import Sealed
from store.tables import Tables

Made = TypeVar("Made")
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
    """The ids, titles and vectors of one release.

    What is made once is kept without a lock: two threads that come at the same time may both map a
    file, which costs nothing, and only one process builds it.
    """

    def __init__(self, tables: Tables, release: Release) -> None:
        self.release = release
        self._tables = tables
        self._files = PackFiles(tables, release)
        self._version = release.tables["item_vectors"]
        self._places: dict[object, tuple[str, int]] = {}
        self._mapped: dict[tuple[str, int], Rows] = {}
        self._made: dict[str, Any] = {}

    @property
    def names(self) -> pa.Table:
        """The item ids in table order and, if the release has items, their titles."""
        return self._once("names", self._map_names)

    @property
    def ids(self) -> pa.Array:
        """The item ids in table order."""
        return self.names["item_id"].chunk(0)

    @property
    def index(self) -> Index:
        """The id to row map."""
        return self._made.get("index") or self._once("index", self._map_index)

    @property
    def nearby(self) -> Nearby:
        """The search index of the release."""
        promise = self.release.description["search"]["index"]
        return self._once("nearby", lambda: Nearby(self._tables, self._version, promise))

    @property
    def filter(self) -> Filter:
        """The pinned `items`, to be filtered."""
        return self._once("filter", self._open_filter)

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

    def private(self, column: str, dim: int) -> Vectors:
        """Return the same rows in a map of the caller's own: changes stay in its memory."""
        return self._open(column, dim, None, private=True).vectors

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

    def _once(self, name: str, make: Callable[[], Made]) -> Made:
        if name not in self._made:
            self._made.setdefault(name, make())
        return cast(Made, self._made[name])

    def _map(self, column: str, dim: int) -> Rows:
        if (column, dim) not in self._mapped:
            self._mapped.setdefault((column, dim), self._open(column, dim, NOTHING))
        return self._mapped[column, dim]

    def _prove(self, column: str, dim: int, blocks: NDArray[np.int64] | None) -> Rows:
        """Return the file with these blocks proven, built anew if they are damaged."""
        mapped = self._mapped[column, dim]
        try:
            mapped.file.check(blocks)
        except sealed.Damaged:
            mapped = self._mapped[column, dim] = self._open(column, dim, blocks)
        return mapped

    def _open(
        self, column: str, dim: int, blocks: NDArray[np.int64] | None, *, private: bool = False
    ) -> Rows:
        rows = max(1, sealed.BLOCK // (4 * dim))
        block = 4 * dim << (rows.bit_length() - 1)  # a power of two of rows
        content = sealed.Content(lambda: self._read_rows(column, dim), block)
        name = f"{column}.{dim}.f32"
        return Rows(self._files.open(name, content, blocks, private=private), dim)

    def _map_names(self) -> pa.Table:
        data = self._files.open(NAMES, sealed.Content(self._read_names)).data
        return pa.ipc.open_stream(pa.py_buffer(data)).read_all()

    def _map_index(self) -> Index:
        content = sealed.Content(lambda: index.build(self.ids))
        return Index(self._files.open(INDEX, content).data)

    def _open_filter(self) -> Filter:
        items = self._tables.dataset("items", version=self.release.tables["items"])
        held = items.scanner(columns=["_rowid", "item_id"]).to_table()
        rows = self.index.rows(held["item_id"].to_pylist())
        return Filter(items, RowIds(held["_rowid"].to_numpy(), rows))

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
