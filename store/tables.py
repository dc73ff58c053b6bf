"""The store's tables: reads at a version, safe writes, the writer lock, upkeep.

It knows LanceDB and its traps, and which column identifies a row. It does not know what a release
is or what the columns mean.

Every write happens under the writer lock, makes one new version and proves, where the table has a
key, that no key repeats. A version that no release names is invisible to readers, so a killed
writer leaves nothing to repair.

A table of an object store has no file lock: there the lock keeps out writers of this machine only,
and LanceDB's conditional commits, the declared primary key and the proof guard against the rest.
Run one writer per store; `Tables.lock_scope` tells which of the two holds.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import pyarrow as pa

from store.errors import BadTable, UnknownTable, some
from store.lock import WriterLock
from store.paths import cache_folder, local_folder
from store.schema import KEYS, positions

if TYPE_CHECKING:
    import lance
    import lancedb
    from lancedb.table import LanceTable

Rows: TypeAlias = pa.Table | pa.RecordBatchReader
PRIMARY_KEY = {b"lance-schema:unenforced-primary-key:position": b"1"}
KEEP_TAG = "itemnest-keep-"
IN_LIST = 10_000  # values per IN (...) list: the parser takes 0.1 s for twice as many


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What `maintain` did to one table."""

    version: int
    fragments_before: int
    fragments_after: int
    versions_removed: int
    bytes_removed: int


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

    @property
    def lock_scope(self) -> Literal["store", "machine"]:
        """Say whom the writer lock keeps out: every writer, or only those of this machine."""
        return "store" if self.folder else "machine"

    def names(self) -> list[str]:
        """Return the names of all tables, sorted."""
        if self.folder and not self.folder.is_dir():
            return []
        if self.folder:
            found = self.folder.glob("*.lance/_versions")
            return sorted(path.parent.stem for path in found)
        return sorted(self._database.list_tables().tables)

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

        A missing table is created. New columns are added as nulls; absent nullable ones are null.
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
            before = table.version
            # With an index the merge looks for matches in it alone and duplicates whatever a
            # concurrent writer has just added.
            merge = table.merge_insert(key).when_matched_update_all().when_not_matched_insert_all()
            merge.use_index(False).execute(rows)
            return self._proven(name, table, key, before)

    def insert_new(self, name: str, rows: pa.Table, key: str | None = None) -> int:
        """Insert the rows whose key does not exist yet; return how many those were."""
        key = _key(name, key)
        _refuse_repeats(name, rows[key], key)
        with self.lock():
            if self.version(name) is None:
                self._write(name, rows.slice(0, 0), key, mode="create")
            table = self._open(name, key)
            before = table.version
            merge = table.merge_insert(key).when_not_matched_insert_all().use_index(False)
            inserted = merge.execute(self._fitted(table, rows)).num_inserted_rows
            self._proven(name, table, key, before)
            return inserted

    def append(self, name: str, rows: Rows) -> int:
        """Add rows at the end; return the new version. A missing table is created."""
        with self.lock():
            mode = "create" if self.version(name) is None else "append"
            return self._write(name, rows, KEYS.get(name), mode=mode)

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

    def lock(self) -> AbstractContextManager[None]:
        """Return the writer lock: one writer per store, re-entrant in a process.

        StoreLocked names the owner when another process still holds it after `lock_wait` seconds.
        A killed process holds nothing.
        """
        folder = self.folder or cache_folder(self.uri)
        return WriterLock(folder / ".lock", what=self.uri, wait=self.lock_wait)

    def maintain(
        self, keep: Mapping[str, set[int]], *, grace: timedelta = timedelta(hours=1)
    ) -> dict[str, Upkeep]:
        """Compact every table and remove its old versions, but never one of `keep`.

        Versions younger than `grace` stay too, for readers that are about to open them.
        """
        with self.lock():
            names = self.names()
            return {name: self._maintain(name, keep.get(name, set()), grace) for name in names}

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

    def _maintain(self, name: str, keep: set[int], grace: timedelta) -> Upkeep:
        data = self.dataset(name)
        before = len(data.get_fragments())
        there = {row["version"] for row in data.versions()}  # a longer `keep` revives nothing
        kept = {f"{KEEP_TAG}{version}": version for version in keep & there}
        tagged = {tag for tag in data.tags.list() if tag.startswith(KEEP_TAG)}
        for tag in kept.keys() - tagged:
            data.tags.create(tag, kept[tag])
        for tag in tagged - kept.keys():
            data.tags.delete(tag)
        # Not LanceDB's optimize(): it aborts half-way once a tagged version is old enough to go.
        data.optimize.compact_files()
        data = self.dataset(name)
        stats = data.cleanup_old_versions(older_than=grace, error_if_tagged_old_versions=False)
        after = len(data.get_fragments())
        return Upkeep(data.version, before, after, stats.old_versions, stats.bytes_removed)

    def _write(self, name: str, rows: Rows, key: str | None, *, mode: str) -> int:
        """Create, append to or overwrite a table under the lock; prove its key."""
        before = None
        if mode == "create":
            rows = _retyped(name, rows, _declared(rows.schema, key))
            table = self._table(name, create=rows)
        elif mode == "append":
            table = self._open(name, key)
            before = table.version
            table.add(self._fitted(table, _whole(rows)))
        else:
            table = self._table(name)
            before = table.version
            rows = _retyped(name, rows, _declared(rows.schema, key))
            table.add(rows, mode="overwrite")
        return self._proven(name, table, key, before) if key else table.version

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
                columns.append(pa.nulls(rows.num_rows, field.type))
            else:
                raise BadTable(f"{table.name}: rows lack the column {field.name!r}")
        return _cast(table.name, pa.table(columns, names=table.schema.names), table.schema)

    def _open(self, name: str, key: str | None) -> "LanceTable":
        """Open a table for writing, its key declared: undeclared, concurrent merges duplicate."""
        table = self._table(name)
        if key and not (table.schema.field(key).metadata or {}).keys() >= PRIMARY_KEY.keys():
            table.set_unenforced_primary_key(key)
        return table

    def _proven(self, name: str, table: "LanceTable", key: str, before: int | None) -> int:
        """Return the table's version if no key repeats in it, else take the write back."""
        version = table.version
        keys = self.read(name, columns=[key], version=version)[key]
        if len(keys.unique()) == len(keys):
            return version
        if before is None:
            self._database.drop_table(name)
        else:
            table.restore(before)
        counts = keys.value_counts().to_pylist()
        repeated = [entry["values"] for entry in counts if entry["counts"] > 1]
        raise BadTable(
            f"{name}: {len(repeated)} values of {key!r} would occur more than once "
            f"({some(repeated)}); the write was taken back"
        )

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


def _whole(rows: Rows) -> pa.Table:
    return rows if isinstance(rows, pa.Table) else rows.read_all()


def _retyped(name: str, rows: Rows, schema: pa.Schema) -> Rows:
    return _cast(name, rows, schema) if isinstance(rows, pa.Table) else rows.cast(schema)


def _cast(name: str, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    try:
        return rows.cast(schema)
    except (ValueError, pa.ArrowException) as error:
        raise BadTable(f"{name}: {error}; replace the table to change a column's type") from error
