"""The approximate index of a release: one short prefix column of `item_vectors`, indexed by Lance.

It knows how the column and its index are made, completed, recognised and asked. It does not know
when an index is worth its while, nor how good its answers are: `store.recall` measures that.

Lance answers from the rows alone, in silence, where an index is absent, of another metric or
incomplete. So the index is checked against what the release says before it is asked. That reads
nothing of it; `prove` has it answer.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from matryoshka.prefix import Vectors, prefix
from store.errors import BadIndex, no_panic, some
from store.filter import RowIds
from store.schema import SEARCH_PREFIX, matrix, vector_array
from store.tables import Tables
from store.upkeep import cover

if TYPE_CHECKING:
    import lance

NAME = "near"
# Of 1,000,000 rows of 64: built in seconds, a quarter of IVF_FLAT's size, and its candidates are
# ranked anew from the exact vectors; HNSW took 35 s for 100,000 rows of 32.
KIND = "IVF_SQ"
# The angle alone: rows are unit, and zero rows, which Lance leaves out here, are never published.
METRIC = "cosine"
ROWS_PER_PARTITION = 4096
CACHE = 1 << 30  # bytes of index that a process keeps at most; Lance's own limit is 6 GiB
SAME = 1e-6  # how far a stored prefix may be from that of its vector
REMEDY = "publish it anew, or open another release"


def build(tables: Tables, version: int, column: str, dim: int) -> int:
    """Return a version with the rows of `version`, a prefix column of `column` and its index.

    What is there already is kept and completed, unless it is damaged. Call it under the writer
    lock.
    """
    if tables.version("item_vectors") != version:
        tables.dataset("item_vectors", version=version).restore()
    schema = tables.schema("item_vectors")
    if SEARCH_PREFIX in schema.names and schema.field(SEARCH_PREFIX).type != _kind(dim):
        tables.dataset("item_vectors").drop_columns([SEARCH_PREFIX])
        schema = tables.schema("item_vectors")
    if SEARCH_PREFIX in schema.names:
        _refresh_column(tables, column, dim)
    else:
        _add_column(tables, column, dim)
    cover(partial(tables.dataset, "item_vectors"))
    if not _is_whole(tables):
        data = tables.dataset("item_vectors")
        parts = max(1, data.count_rows() // ROWS_PER_PARTITION)
        data.create_index(
            SEARCH_PREFIX, KIND, name=NAME, metric=METRIC, num_partitions=parts, replace=True
        )
    return tables.dataset("item_vectors").version


def described(tables: Tables, version: int) -> dict[str, Any]:
    """Return what a release is to say of its index, which covers all rows; `check` compares it."""
    data = tables.dataset("item_vectors", version=version)
    promise = _promise(data.count_rows())
    check(data, promise)
    return promise


def check(data: "lance.LanceDataset", promise: Mapping[str, Any]) -> None:
    """Refuse a table whose index is not the one promised: Lance would scan in its place."""
    found = _index(data)
    if found != promise:
        said = ", ".join(f"{name} {value}" for name, value in promise.items())
        has = ", ".join(f"{name} {value}" for name, value in (found or {}).items())
        raise BadIndex(
            f"item_vectors at version {data.version}: the release says that it is indexed by "
            f"{said}, and it has {has or 'no index'}: {REMEDY}"
        )


def prove(tables: Tables, version: int, plan: Mapping[str, Any]) -> None:
    """Refuse a table that is not to be searched by a plan: its `index`, `column` and `prefix`.

    The index has to answer with every row once, and its column to hold the prefix of every row.
    """
    Nearby(tables, version, plan["index"]).prove()
    parts = _stale(tables, version, plan["column"], plan["prefix"])
    if stale := [item for part in parts for item in part["item_id"].to_pylist()]:
        raise BadIndex(
            f"item_vectors at version {version}: {SEARCH_PREFIX} of {len(stale):,} rows is not the "
            f"prefix of {plan['column']} ({some(stale)}): {REMEDY}"
        )


class Nearby:
    """The index of one release, open to be asked."""

    def __init__(self, tables: Tables, version: int, promise: Mapping[str, Any]) -> None:
        self._tables, self._version, self._promise = tables, version, promise

    def candidates(self, query: Vectors, count: int, nprobes: int) -> NDArray[np.int64]:
        """Return up to `count` rows of the table, the nearest to a unit prefix [dim] first.

        BadIndex if the index cannot be read.
        """
        nearest = {
            "column": SEARCH_PREFIX,
            "q": query,
            "k": count,
            "nprobes": nprobes,
            "metric": self._promise["metric"],
        }
        columns = ["_rowid", "_distance"]
        data, rows = self._data, self._rows
        try:
            with no_panic():
                scan = data.scanner(columns=columns, nearest=nearest, fast_search=True)
                return rows.places(scan.to_table()["_rowid"].to_numpy())
        except (ValueError, OSError, RuntimeError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise BadIndex(
                f"item_vectors at version {self._version}: its index cannot be read "
                f"({reason:.200}): {REMEDY}"
            ) from error

    def prove(self) -> None:
        """Refuse an index that does not answer with every row of the table once."""
        rows = self._data.count_rows()
        query = np.zeros(self._data.schema.field(SEARCH_PREFIX).type.list_size, np.float32)
        query[0] = 1
        found = np.sort(self.candidates(query, rows, nprobes=rows))  # partitions are never more
        if not np.array_equal(found, np.arange(rows)):
            raise BadIndex(
                f"item_vectors at version {self._version}: its index answers with "
                f"{len(np.unique(found)):,} of {rows:,} rows, {len(found):,} in all: {REMEDY}"
            )

    @cached_property
    def _data(self) -> "lance.LanceDataset":
        import lance  # 0.4 s: see `Tables.dataset`

        data = lance.dataset(
            self._tables.dataset("item_vectors", version=self._version).uri,
            version=self._version,
            storage_options=self._tables.storage_options,
            index_cache_size_bytes=CACHE,
        )
        check(data, self._promise)
        return data

    @cached_property
    def _rows(self) -> RowIds:
        ids = self._data.scanner(columns=["_rowid"]).to_table()["_rowid"].to_numpy()
        return RowIds(ids, np.arange(len(ids)))


def _index(data: "lance.LanceDataset") -> dict[str, Any] | None:
    for index in data.describe_indices():
        if index.name == NAME:
            return {
                "column": ", ".join(index.field_names),
                "kind": index.index_type,
                "metric": index.details["metric_type"].lower(),
                "rows": index.num_rows_indexed,
            }
    return None


def _is_whole(tables: Tables) -> bool:
    """Return whether the newest version has an index as it should be, which answers."""
    version = tables.dataset("item_vectors").version
    try:
        Nearby(tables, version, described(tables, version)).prove()
    except BadIndex:
        return False
    return True


def _promise(rows: int) -> dict[str, Any]:
    return {"column": SEARCH_PREFIX, "kind": KIND, "metric": METRIC, "rows": rows}


def _kind(dim: int) -> pa.DataType:
    return pa.list_(pa.float32(), dim)


def _add_column(tables: Tables, column: str, dim: int) -> None:
    # Nullable: rows that are upserted later come without it, as zeros, until the next `build`.
    field = pa.schema([pa.field(SEARCH_PREFIX, _kind(dim))])

    def prefixes() -> Iterator[pa.RecordBatch]:
        for batch in tables.batches("item_vectors", columns=[column]):
            head = vector_array(prefix(matrix(batch[column]), dim))
            yield pa.record_batch([head], schema=field)

    reader = pa.RecordBatchReader.from_batches(field, prefixes())
    tables.dataset("item_vectors").add_columns(reader)


def _refresh_column(tables: Tables, column: str, dim: int) -> None:
    """Write the prefix of the rows that have none, or that of an earlier vector."""
    if stale := list(_stale(tables, None, column, dim)):
        merge = tables.dataset("item_vectors").merge_insert("item_id")
        merge.when_matched_update_all().use_index(False).execute(pa.concat_tables(stale))


def _stale(tables: Tables, version: int | None, column: str, dim: int) -> Iterator[pa.Table]:
    """Yield the rows that lack the prefix of their vector, with it: item_id and SEARCH_PREFIX."""
    columns = ["item_id", column, SEARCH_PREFIX]
    for batch in tables.batches("item_vectors", columns=columns, version=version):
        head, held = prefix(matrix(batch[column]), dim), batch[SEARCH_PREFIX]
        there = held.is_valid().to_numpy(zero_copy_only=False)
        same = np.zeros(len(head), bool)  # of NaN too
        same[there] = (np.abs(head[there] - matrix(held.drop_null())) <= SAME).all(axis=1)
        if not same.all():
            ids = batch["item_id"].filter(pa.array(~same))
            yield pa.table({"item_id": ids, SEARCH_PREFIX: vector_array(head[~same])})
