"""The store's tables: reads at a version, safe writes, the writer lock, upkeep.

It knows LanceDB and its traps, and which column identifies a row. It does not know what a release
is or what the columns mean.

Every write happens under the writer lock, makes a new version and proves, where the table has a
key, that no key repeats. A version that no release names is invisible to readers, so a killed
writer leaves nothing to repair.

A folder is locked by a file, an object store by a lease on an object (`store/lease.py`). Should a
holder of the lease be taken for dead and wake up while it commits, then LanceDB's conditional
commits, the declared primary key and the proof are what is left to guard.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import pyarrow as pa
import pyarrow.compute as pc

from store.errors import BadTable, MissingPart, UnknownTable, some
from store.forks import use_lance
from store.lease import object_lock
from store.lock import file_lock
from store.objects import folders, open_objects
from store.paths import local_folder
from store.schema import KEYS, positions
from store.upkeep import Upkeep, cover, retried, tend

if TYPE_CHECKING:
    import lance
    import lancedb
    from lancedb.table import LanceTable

Rows: TypeAlias = pa.Table | pa.RecordBatchReader
PRIMARY_KEY = {b"lance-schema:unenforced-primary-key:position": b"1"}
BUILT_TOGETHER = {"lancedb": "0.40", "pylance": "13"}
IN_LIST = 10_000  # values per IN (...) list: the parser takes 0.1 s for twice as many


class Tables:
    """The tables of one store, at a folder or an object store address."""

    def __init__(
        self,
        uri: str | Path,
        storage_options: Mapping[str, str] | None = None,
        *,
        lock_wait: float = 10.0,
    ) -> None:
        self.folder = local_folder(uri)
        self.uri = str(self.folder or uri).rstrip("/")
        self.storage_options = dict(storage_options) if storage_options else None
        self.lock_wait = lock_wait

    def __getstate__(self) -> dict[str, object]:
        """Travel to another process as an address; a connection stays where it was made."""
        return {name: value for name, value in vars(self).items() if name != "_database"}

    def names(self) -> list[str]:
        """Return the names of all tables, sorted."""
        if self.folder:
            found = self.folder.glob("*.lance/_versions")
            return sorted(path.parent.stem for path in found)
        objects = open_objects(self.uri, self.storage_options)
        tables = [name for name in folders(objects) if name.endswith(".lance")]
        # A writer that was killed while it created a table leaves data that nothing names.
        return sorted(Path(name).stem for name in tables if "_versions" in folders(objects, name))

    def version(self, name: str) -> int | None:
        """Return the table's newest version, None when there is no such table."""
        try:
            return self.dataset(name).version
        except UnknownTable:
            return None

    def schema(self, name: str, *, version: int | None = None) -> pa.Schema:
        """Return the table's Arrow schema."""
        return self.dataset(name, version=version).schema

    def count(self, name: str, *, where: str | None = None, version: int | None = None) -> int:
        """Return how many rows the table has, or how many match a SQL filter."""
        return self.dataset(name, version=version).count_rows(filter=where)

    def read(
        self,
        name: str,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """Return rows in table order; `where` is a SQL filter that Lance evaluates."""
        scan = self._scan(name, columns, where, version)
        return scan.to_table()

    def batches(
        self,
        name: str,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        version: int | None = None,
        batch_size: int = 8192,
    ) -> Iterator[pa.RecordBatch]:
        """Yield rows in table order without holding the whole table."""
        yield from self._scan(name, columns, where, version, batch_size).to_batches()

    def take(
        self,
        name: str,
        key: str,
        values: Sequence[str],
        *,
        columns: Sequence[str] | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """Return the rows whose `key` is in `values`, in that order; absent values have no row."""
        wanted = list(dict.fromkeys([key, *columns])) if columns is not None else None
        parts = [
            self.read(name, columns=wanted, where=is_in(key, part), version=version)
            for part in _parts(values)
        ]
        if not parts:
            return self.read(name, columns=columns, where="false", version=version)
        found = pa.concat_tables(parts)
        ordered = found.take(positions(pa.array(values, pa.string()), found[key]).drop_null())
        return ordered if columns is None else ordered.select(list(columns))

    def dataset(self, name: str, *, version: int | None = None) -> "lance.LanceDataset":
        """Return a Lance dataset pinned at a version: what every read here goes through."""
        # Reading needs pylance alone: 0.4 s to import, where lancedb costs 2.5 s (1.9 s of it the
        # REST client of its namespaces). Only writing pays that.
        import lance

        use_lance()
        try:
            return lance.dataset(
                f"{self.uri}/{name}.lance", version=version, storage_options=self.storage_options
            )
        except ValueError as error:
            if "not found" not in str(error):
                raise
            known = f"table {name!r}; it has {some(self.names(), 20) or 'no tables'}"
            gone = f"version {version} of table {name!r} any more: it was cleaned up"
            raise UnknownTable(
                f"{self.uri} has no {gone if version and name in self.names() else known}"
            ) from error

    def upsert(self, name: str, rows: pa.Table, key: str | None = None) -> int:
        """Insert rows and replace those whose key exists; return the new version.

        A missing table is created. New columns are added as nulls; nullable ones that the rows lack
        are null, vectors zero.
        """
        key = _key(name, key)
        _refuse_repeats(name, rows[key], key)
        with self.lock():
            if self.version(name) is None:
                return self._write(name, rows, key, mode="create")
            table = self._open(name, key)
            rows = self._fitted(table, rows)
            if not rows.num_rows:
                return table.version
            # With an index the merge looks for matches in it alone and duplicates whatever a
            # concurrent writer has just added.
            merge = table.merge_insert(key).when_matched_update_all().when_not_matched_insert_all()
            mine = merge.use_index(False).execute(rows).version
            return self._proven(table, key, mine, rows[key])

    def insert_new(self, name: str, rows: pa.Table, key: str | None = None) -> int:
        """Insert the rows whose key does not exist yet; return how many those were."""
        key = _key(name, key)
        _refuse_repeats(name, rows[key], key)
        with self.lock():
            if self.version(name) is None:
                self._write(name, rows.slice(0, 0), key, mode="create")
            table = self._open(name, key)
            merge = table.merge_insert(key).when_not_matched_insert_all().use_index(False)
            rows = self._fitted(table, rows)
            done = merge.execute(rows)
            self._proven(table, key, done.version, rows[key])
            return done.num_inserted_rows

    def append(self, name: str, rows: Rows, *, absent_at: int | None = None) -> int:
        """Add rows at the end; return the new version. A missing table is created.

        absent_at: a version in which the caller has seen none of the keys. If this commit is the
        next one, that is the proof; otherwise, as without it, all keys are read.
        """
        rows, key = _whole(rows), KEYS.get(name)
        if key:
            _refuse_repeats(name, rows[key], key)
        with self.lock():
            if self.version(name) is None:
                return self._write(name, rows, key, mode="create")
            table = self._open(name, key)
            # Not a merge, which forgets the order of the rows.
            rows = self._fitted(table, rows)
            mine = table.add(rows).version
            if key is None:
                return mine
            if absent_at is not None and mine == absent_at + 1:
                return cover(partial(self.dataset, name)) or mine
            return self._proven(table, key, mine, rows[key])

    def replace(self, name: str, rows: Rows, key: str | None = None) -> int:
        """Make these rows, in their own schema, the whole table; return the new version.

        Older versions stay readable.
        """
        with self.lock():
            mode = "create" if self.version(name) is None else "overwrite"
            return self._write(name, rows, key or KEYS.get(name), mode=mode)

    def delete(self, name: str, key: str, values: Sequence[str]) -> int:
        """Delete the rows whose `key` is in `values`; return the new version."""
        with self.lock():
            version = self.dataset(name).version
            for part in _parts(values):
                version = self._table(name).delete(is_in(key, part)).version
            return version

    def compact(self, name: str) -> int:
        """Merge the small fragments that many appends leave; return the new version."""
        with self.lock():
            newest = partial(self.dataset, name)
            retried(newest, lambda data: data.optimize.compact_files())
            return newest().version

    def lock(self) -> AbstractContextManager[None]:
        """Return the writer lock: one writer per store, re-entrant in a process.

        StoreLocked names the owner when another process still holds it after `lock_wait` seconds.
        A killed process holds nothing: at once in a folder, after 20 s in an object store.
        MissingPart if the installed packages must not write.
        """
        refuse_other_lance(metadata.version("lancedb"), metadata.version("pylance"))
        if self.folder:
            return file_lock(self.folder / ".lock", what=self.uri, wait=self.lock_wait)
        return object_lock(self.uri, self.storage_options, wait=self.lock_wait)

    def maintain(
        self, keep: Mapping[str, set[int]], *, grace: timedelta = timedelta(hours=1)
    ) -> dict[str, Upkeep]:
        """Compact every table, complete its indices, remove its old versions but those of `keep`.

        Versions younger than `grace` stay too, for readers that are about to open them.
        """
        with self.lock():
            names = self.names()
            return {
                name: tend(partial(self.dataset, name), keep.get(name, set()), grace)
                for name in names
            }

    def _scan(
        self,
        name: str,
        columns: Sequence[str] | None,
        where: str | None,
        version: int | None,
        batch_size: int | None = None,
    ) -> "lance.LanceScanner":
        data = self.dataset(name, version=version)
        chosen = None if columns is None else list(columns)
        return data.scanner(columns=chosen, filter=where, batch_size=batch_size)

    def _write(self, name: str, rows: Rows, key: str | None, *, mode: str) -> int:
        """Create or overwrite a table under the lock; prove its key."""
        rows = _retyped(name, rows, _declared(rows.schema, key))
        if mode == "create":
            table = self._table(name, create=rows)
            mine = table.version
        else:
            table = self._table(name)
            mine = table.add(rows, mode="overwrite").version
        return self._proven(table, key, mine) if key else mine

    def _fitted(self, table: "LanceTable", rows: pa.Table) -> pa.Table:
        """Return rows in the table's columns and types; add to the table what is new in them."""
        new = [field for field in rows.schema if field.name not in table.schema.names]
        if new:
            table.add_columns([field.with_nullable(True) for field in new])
        columns = []
        for field in table.schema:
            if field.name in rows.schema.names:
                columns.append(rows[field.name])
            elif field.nullable:
                columns.append(_nothing(rows.num_rows, field.type))
            else:
                raise BadTable(f"{table.name}: rows lack the column {field.name!r}")
        return _cast(table.name, pa.table(columns, names=table.schema.names), table.schema)

    def _open(self, name: str, key: str | None) -> "LanceTable":
        """Open a table for writing, its key declared: undeclared, concurrent merges duplicate."""
        table = self._table(name)
        if key and not (table.schema.field(key).metadata or {}).keys() >= PRIMARY_KEY.keys():
            table.set_unenforced_primary_key(key)
        return table

    def _proven(
        self,
        table: "LanceTable",
        key: str,
        mine: int,
        written: pa.ChunkedArray | None = None,
    ) -> int:
        """Return the version to read if no key written in commit `mine` repeats, else undo it.

        written: the keys, if they are not all of the table's; the rest was proven by its writer.
        Of two writers who add a key, the one who commits later sees both rows.
        """
        keys = self.read(table.name, columns=[key], version=mine)[key]
        if written is not None:
            keys = keys.filter(pc.is_in(keys, value_set=written.combine_chunks()))
        if len(keys.unique()) == len(keys):
            return cover(partial(self.dataset, table.name)) or mine
        undone = self._undo(table, mine)
        counts = keys.value_counts().to_pylist()
        repeated = [entry["values"] for entry in counts if entry["counts"] > 1]
        outcome = (
            "the write was taken back"
            if undone
            else "another writer has written since, so the write stands: delete those rows, "
            "write them again, and run one writer per store"
        )
        raise BadTable(
            f"{table.name}: {len(repeated)} values of {key!r} would occur more than once "
            f"({some(repeated)}); {outcome}"
        )

    def _undo(self, table: "LanceTable", mine: int) -> bool:
        """Take commit `mine` back, unless that would take another writer's later one with it."""
        if self.version(table.name) != mine:
            return False
        if mine == 1:
            self._database.drop_table(table.name)
            return True
        table.restore(mine - 1)
        if table.version == mine + 1:
            return True
        table.restore(table.version - 1)  # one has come in between: Lance restores all the same
        return False

    def _table(self, name: str, create: Rows | None = None) -> "LanceTable":
        if create is None:
            table = self._database.open_table(name)
        else:
            table = self._database.create_table(name, create, schema=create.schema)
        return cast("LanceTable", table)

    @cached_property
    def _database(self) -> "lancedb.DBConnection":
        import lancedb  # 2.5 s: see `dataset`

        return lancedb.connect(self.uri, storage_options=self.storage_options)


def refuse_other_lance(lancedb: str, pylance: str) -> None:
    """Refuse to write with versions of the two packages that were not built for each other.

    A pylance of another major version writes indices in which this lancedb misses rows.
    """
    found = {"lancedb": lancedb, "pylance": pylance}
    for package, built in BUILT_TOGETHER.items():
        if not f"{found[package]}.".startswith(f"{built}."):
            raise MissingPart(
                f"{package} {found[package]} is installed, and the store writes with {package} "
                f"{built} alone, lest an index lose rows in silence: "
                "pip install lancedb==0.40.0 pylance==13.0.0"
            )


def is_in(column: str, values: Sequence[object]) -> str:
    """Return the SQL filter `column IN (values)`, quoted."""
    quoted = ", ".join("'" + str(value).replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})"


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    return (values[start : start + IN_LIST] for start in range(0, len(values), IN_LIST))


def _key(name: str, key: str | None) -> str:
    found = key or KEYS.get(name)
    if found is None:
        raise BadTable(f"{name} has no key column: name one, or use append or replace")
    return found


def _refuse_repeats(name: str, keys: pa.ChunkedArray, key: str) -> None:
    if len(keys.unique()) != len(keys):
        raise BadTable(f"{name}: the rows given repeat values of {key!r}: keep one row per value")


def _declared(schema: pa.Schema, key: str | None) -> pa.Schema:
    """Return the schema with its key never null and declared as the primary key.

    Overwriting a table forgets the declaration unless the new schema carries it.
    """
    plain = schema.remove_metadata()
    if key is None:
        return plain
    field = pa.field(key, schema.field(key).type, nullable=False, metadata=PRIMARY_KEY)
    return plain.set(schema.get_field_index(key), field)


def _nothing(rows: int, kind: pa.DataType) -> pa.Array:
    """Return what rows hold in a column that they lack: nulls, or zeros where it is of vectors."""
    if not pa.types.is_fixed_size_list(kind):
        return pa.nulls(rows, kind)
    zero = pa.scalar(0, kind.value_type)  # LanceDB refuses null vectors
    return pa.FixedSizeListArray.from_arrays(pa.repeat(zero, rows * kind.list_size), type=kind)


def _whole(rows: Rows) -> pa.Table:
    return rows if isinstance(rows, pa.Table) else rows.read_all()


def _retyped(name: str, rows: Rows, schema: pa.Schema) -> Rows:
    return _cast(name, rows, schema) if isinstance(rows, pa.Table) else rows.cast(schema)


def _cast(name: str, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    try:
        return rows.cast(schema)
    except (ValueError, pa.ArrowException) as error:
        raise BadTable(f"{name}: {error}; replace the table to change a column's type") from error
