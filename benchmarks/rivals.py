"""What else could answer a look-up: each holds the same ids and vectors and gives `Get`s.

A `Get` takes ids as a list of strings and returns their vectors, float32 [n, DIM], in the order
asked, repeats kept. Where a system answers in an order of its own, putting the rows into the order
asked is part of its `Get`, because that is what the caller needs. Rows are written sorted by id,
where that helps, and every `Get` is the quickest of the ways tried here.
"""

import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeAlias, cast

import duckdb
import lancedb
import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import redis
from lancedb.index import BTree
from numpy.typing import NDArray

from benchmarks.items import DIM, Items, made

Vectors: TypeAlias = NDArray[np.float32]
Get: TypeAlias = Callable[[list[str]], Vectors]

UNORDERED = "lancedb unordered"
SQLITE_AT_ONCE = 500  # ids in one IN list
SQLITE_FEW = 8  # fewer ids are found quicker by a query each
DUCKDB_FEW = 1000  # fewer ids are found quicker by an IN list than by a join
REDIS_AT_ONCE = 1000  # keys in one MGET
REDIS_START = 20.0  # seconds for the server to answer its first ping


@contextmanager
def lancedb_in(folder: Path, items: Items) -> Iterator[Mapping[str, Get]]:
    """LanceDB as most would use it: `where("id IN (…)")` with a BTREE on id, then reordered.

    UNORDERED leaves out the reordering: each row once, in an order of LanceDB's own.
    """

    def build(draft: Path) -> None:
        table = lancedb.connect(draft).create_table("items", _table(items))
        table.create_index("id", config=BTree())

    table = lancedb.connect(made(folder / "lancedb", build)).open_table("items")

    def found(ids: list[str]) -> pa.Table:
        return table.search().where(_id_in(ids)).select(["id", "vector"]).to_arrow()

    yield {
        "lancedb": lambda ids: _reordered(found(ids), ids),
        UNORDERED: lambda ids: _matrix(found(ids)["vector"]),
    }


@contextmanager
def lmdb_get(folder: Path, items: Items) -> Iterator[Mapping[str, Get]]:
    """LMDB: one read transaction held open, a `get` per id, its pages mapped."""
    size = 2**20 + 2**12 * len(items.ids)  # an upper bound: a map is not memory

    def build(draft: Path) -> None:
        with lmdb.open(str(draft), map_size=size) as env, env.begin(write=True) as transaction:
            for item, row in _sorted_rows(items):
                transaction.put(item.encode(), row, append=True)

    with (
        lmdb.open(str(made(folder / "lmdb", build)), map_size=size, readonly=True) as env,
        env.begin(buffers=True) as transaction,
    ):
        yield {"lmdb": lambda ids: _joined(cast(Any, transaction.get(key.encode())) for key in ids)}


@contextmanager
def sqlite_table(folder: Path, items: Items) -> Iterator[Mapping[str, Get]]:
    """SQLite, a table clustered by id and mapped: IN lists and reordering, for few a query each."""

    def build(draft: Path) -> None:
        with closing(sqlite3.connect(draft / "items.db")) as database, database:
            database.execute("CREATE TABLE items (id TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID")
            database.executemany("INSERT INTO items VALUES (?, ?)", _sorted_rows(items))

    with closing(sqlite3.connect(made(folder / "sqlite", build) / "items.db")) as database:
        database.execute("PRAGMA mmap_size = 1099511627776")

        def get(ids: list[str]) -> Vectors:
            search = _sqlite_each if len(ids) < SQLITE_FEW else _sqlite_in
            return _joined(search(database, ids))

        yield {"sqlite": get}


def _sqlite_each(database: sqlite3.Connection, ids: list[str]) -> Iterator[bytes]:
    query = "SELECT v FROM items WHERE id = ?"
    return (database.execute(query, (item,)).fetchone()[0] for item in ids)


def _sqlite_in(database: sqlite3.Connection, ids: list[str]) -> Iterator[bytes]:
    found: dict[str, bytes] = {}
    for start in range(0, len(ids), SQLITE_AT_ONCE):
        part = ids[start : start + SQLITE_AT_ONCE]
        marks = ",".join("?" * len(part))
        found.update(database.execute(f"SELECT id, v FROM items WHERE id IN ({marks})", part))
    return map(found.__getitem__, ids)


@contextmanager
def duckdb_join(folder: Path, items: Items) -> Iterator[Mapping[str, Get]]:
    """DuckDB, a table with a unique index: joined with the wanted ids and their positions.

    Few ids are found by an IN list instead, which reads the index, and then reordered.
    """

    def build(draft: Path) -> None:
        with duckdb.connect(draft / "items.db") as database:
            database.register("given", _table(items))
            database.execute(f"CREATE TABLE items (id VARCHAR PRIMARY KEY, vector FLOAT[{DIM}])")
            database.execute("INSERT INTO items SELECT id, vector FROM given")

    path = made(folder / "duckdb", build) / "items.db"
    with duckdb.connect(path, read_only=True) as database:

        def get(ids: list[str]) -> Vectors:
            return (_duckdb_in if len(ids) < DUCKDB_FEW else _duckdb_join)(database, ids)

        yield {"duckdb": get}


def _duckdb_in(database: duckdb.DuckDBPyConnection, ids: list[str]) -> Vectors:
    query = f"SELECT id, vector FROM items WHERE {_id_in(ids)}"
    return _reordered(database.sql(query).to_arrow_table(), ids)


def _duckdb_join(database: duckdb.DuckDBPyConnection, ids: list[str]) -> Vectors:
    database.register("wanted", pa.table({"id": ids, "position": np.arange(len(ids))}))
    query = "SELECT vector FROM wanted JOIN items USING (id) ORDER BY position"
    return _matrix(database.sql(query).to_arrow_table()["vector"])


@contextmanager
def redis_mget(folder: Path, items: Items) -> Iterator[Mapping[str, Get]]:
    """Redis over a unix socket, a server of our own without persistence, parsed by hiredis.

    Nothing to give where no `redis-server` is installed. What it holds ends with it, so `folder`
    stays as it is.
    """
    if shutil.which("redis-server") is None:
        yield {}
        return
    with tempfile.TemporaryDirectory() as home, _redis_server(Path(home)) as client:
        for start in range(0, len(items.ids), REDIS_AT_ONCE):
            ids = items.ids.slice(start, REDIS_AT_ONCE).to_pylist()
            rows = items.vectors[start : start + REDIS_AT_ONCE]
            client.mset({item: row.tobytes() for item, row in zip(ids, rows, strict=True)})

        def mget(ids: list[str]) -> Vectors:
            parts = range(0, len(ids), REDIS_AT_ONCE)
            found = (client.mget(ids[start : start + REDIS_AT_ONCE]) for start in parts)
            return _joined(row for rows in found for row in cast(list[bytes], rows))

        yield {"redis": mget}


@contextmanager
def _redis_server(home: Path) -> Iterator[redis.Redis]:
    socket = home / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(home)]
    command += ["--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            with redis.Redis(unix_socket_path=str(socket)) as client:
                _await(client, server)
                yield client
        finally:
            server.terminate()


def _await(client: redis.Redis, server: subprocess.Popen[bytes]) -> None:
    last = monotonic() + REDIS_START
    while True:
        try:
            client.ping()
            return
        except redis.ConnectionError as error:
            if server.poll() is not None or monotonic() > last:
                raise RuntimeError(
                    f"redis-server did not answer within {REDIS_START:.0f} s (exit status "
                    f"{server.poll()}): start it by hand to see why, or uninstall it to go without"
                ) from error
            sleep(0.05)


RIVALS = (lancedb_in, lmdb_get, sqlite_table, duckdb_join, redis_mget)


def _table(items: Items) -> pa.Table:
    """Return id and vector as Arrow, neither ever null."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(items.vectors.reshape(-1)), DIM)
    fields = [pa.field("id", pa.string(), False), pa.field("vector", vectors.type, False)]
    return pa.table([items.ids, vectors], schema=pa.schema(fields))


def _id_in(ids: Iterable[str]) -> str:
    quoted = "','".join(ids)  # none of the ids has a quote in it
    return f"id IN ('{quoted}')"


def _reordered(rows: pa.Table, ids: list[str]) -> Vectors:
    """Return the vectors of the rows in the order of the ids."""
    places = cast(Any, pc).index_in(pa.array(ids), value_set=rows["id"].combine_chunks())
    return np.take(_matrix(rows["vector"]), places.to_numpy(), axis=0)


def _sorted_rows(items: Items) -> Iterator[tuple[str, bytes]]:
    order = cast(Any, pc).sort_indices(items.ids).to_numpy()
    for item, row in zip(items.ids.take(order).to_pylist(), order, strict=True):
        yield item, items.vectors[row].tobytes()


def _matrix(column: pa.ChunkedArray) -> Vectors:
    """Return a column of vectors as float32 [n, DIM], copied only where it is in several parts."""
    return column.combine_chunks().flatten().to_numpy().reshape(-1, DIM)


def _joined(rows: Iterable[bytes]) -> Vectors:
    return np.frombuffer(b"".join(rows), np.float32).reshape(-1, DIM)
