"""The process that runs one SQL query: a request as JSON on stdin, an Arrow IPC stream on stdout.

`store.query` starts this file by its path, so it imports no module of ours and starts as fast as
duckdb, pyarrow and lance allow. It expects hostile SQL: limits first, then a locked connection,
then exactly one SELECT. It knows table names and versions, not what is in them.

A query without an answer ends the process with status REFUSED and the reason on stdout.
"""

import json
import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import lance
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

REFUSED = 3
BATCH_ROWS = 8192
BATCH_BYTES = 32 << 20  # a batch of pictures is cut by bytes long before it is cut by rows
# In this order. Without external access DuckDB still reads, and by COPY writes, two places:
# temp_directory, and the path of its own database, "<working folder>/:memory:". And COPY, INSERT
# and the like may hide in WITH x AS (..) SELECT .., which is typed SELECT.
LOCKDOWN = """
SET temp_directory = '';
SET secret_directory = '/nonexistent';
SET allow_persistent_secrets = false;
SET allow_community_extensions = false;
SET autoinstall_known_extensions = false;
SET autoload_known_extensions = false;
SET python_enable_replacements = false;
SET enable_external_access = false;
SET disabled_filesystems = 'LocalFileSystem';
CREATE TEMP MACRO cosine
    (a, b) AS array_cosine_similarity(a, b),
    (a, b, dim) AS list_cosine_similarity((a::FLOAT[])[1:dim], (b::FLOAT[])[1:dim]);
SET lock_configuration = true;
"""


class Refused(Exception):
    """The query gets no answer, for the reason in the message."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A started read, in the shape DuckDB expects of a scanner."""

    reader: pa.RecordBatchReader

    def to_reader(self) -> pa.RecordBatchReader:
        """Return the batches."""
        return self.reader


class PinnedTable(pads.Dataset):
    """One version of one Lance table, as DuckDB's dataset scan wants it.

    DuckDB hands down the columns and the filter of each scan. It refuses a table with a float16
    column anywhere, so those are declared, and read, as float32.
    """

    def __init__(self, dataset: lance.LanceDataset) -> None:
        self._dataset = dataset
        self._schema = pa.schema([field.with_type(widened(field.type)) for field in dataset.schema])

    @property
    def schema(self) -> pa.Schema:
        """The schema DuckDB sees."""
        return self._schema

    def scanner(
        self, columns: list[str] | None = None, filter: pc.Expression | None = None
    ) -> Rows:
        """Read `columns` of the rows that pass `filter`; DuckDB tests them no second time."""
        wanted = self._schema.names if columns is None else columns
        try:
            return Rows(self._read(wanted, filter))
        except (ValueError, NotImplementedError):
            if filter is None:
                raise
        # Lance filters no column of some types, uint64 and large_binary among them: Arrow does
        read = [name for name in self._schema.names if name in wanted or name in str(filter)]
        batches = self._read(read, None)
        return Rows(pads.Scanner.from_batches(batches, columns=wanted, filter=filter).to_reader())

    def _read(self, columns: Sequence[str], filter: pc.Expression | None) -> pa.RecordBatchReader:
        fields = [self._dataset.schema.field(name) for name in columns]
        narrow = any(widened(field.type) != field.type for field in fields)
        scanner = self._dataset.scanner(
            columns={field.name: _read_as(field) for field in fields} if narrow else list(columns),
            filter=filter,
            batch_size=BATCH_ROWS,
            batch_size_bytes=BATCH_BYTES,
            io_buffer_size=4 * BATCH_BYTES,
        )
        return scanner.to_reader()


def widened(stored: pa.DataType) -> pa.DataType:
    """Return `stored` with float16 as float32, alone or in a list."""
    if pa.types.is_float16(stored):
        return pa.float32()
    if pa.types.is_fixed_size_list(stored) and pa.types.is_float16(stored.value_type):
        return pa.list_(pa.float32(), stored.list_size)
    if pa.types.is_list(stored) and pa.types.is_float16(stored.value_type):
        return pa.list_(pa.float32())
    return stored


def _read_as(field: pa.Field) -> str:
    column, stored = f"`{field.name}`", field.type
    if widened(stored) == stored:
        return column
    if pa.types.is_fixed_size_list(stored):
        return f"arrow_cast({column}, 'FixedSizeList({stored.list_size}, Float32)')"
    return f"arrow_cast({column}, '{'List(Float32)' if pa.types.is_list(stored) else 'Float32'}')"


def connect(memory_bytes: int) -> duckdb.DuckDBPyConnection:
    """Open an empty database in memory that reaches no file, network, extension or variable."""
    connection = duckdb.connect(":memory:")
    connection.execute(f"SET memory_limit = '{memory_bytes // 2**20} MiB'")
    connection.execute(f"SET threads = {min(4, os.cpu_count() or 1)}")
    connection.execute(LOCKDOWN)
    return connection


def only_select(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """Parse `sql` and return its statement, which is exactly one SELECT."""
    statements = connection.extract_statements(sql)
    if not statements:
        raise Refused("the query is empty: write one SELECT")
    kinds = [statement.type.name for statement in statements]
    if len(kinds) > 1:
        raise Refused(f"one SELECT at a time: these are {', '.join(kinds)}")
    if kinds == ["MULTI"]:
        raise Refused("a PIVOT has to list its values: PIVOT t ON column IN ('a', 'b') USING ..")
    if kinds != ["SELECT"]:
        raise Refused(f"only a SELECT can be run, and this is {kinds[0]}")
    return statements[0]


def answer(request: dict[str, Any]) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Run the query and return all its rows; raise Refused at the first row or byte too many."""
    connection = connect(request["memory_bytes"])
    for name, version in request["tables"].items():
        address, options = f"{request['uri']}/{name}.lance", request["storage_options"]
        table = PinnedTable(lance.dataset(address, version=version, storage_options=options))
        connection.register(name, table)
    statement = only_select(connection, request["sql"])
    connection.execute("BEGIN TRANSACTION READ ONLY")
    reader = connection.sql(statement).to_arrow_reader(BATCH_ROWS)  # execute() would hold all rows
    batches, rows, size = [], 0, 0
    for batch in reader:
        rows, size = rows + batch.num_rows, size + batch.nbytes
        _within(rows, request["max_rows"], "rows")
        _within(size, request["max_bytes"], "bytes")
        batches.append(batch)
    return reader.schema, batches


def _within(value: int, bound: int, unit: str) -> None:
    if value > bound:
        raise Refused(f"the answer is larger than {bound:,} {unit}: add a LIMIT or select less")


def distinct(names: Sequence[str]) -> list[str]:
    """Return column names of which none repeats: a second `a` becomes `a_1`, or `a_2`, …."""
    taken: list[str] = []
    for name in names:
        free = (f"{name}_{i}" for i in count(1))
        repeated = name in taken
        taken.append(next(n for n in free if n not in [*names, *taken]) if repeated else name)
    return taken


def limit(memory_bytes: int, cpu_seconds: int) -> None:
    """Have the kernel refuse what DuckDB does not: memory, written files, core dumps, time."""
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_CPU, cpu_seconds)  # should our parent die before it can kill us
    if sys.platform == "linux":  # elsewhere the kernel does not hold to it
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + memory_bytes)


def _lower(kind: int, bound: int) -> None:
    hard = resource.getrlimit(kind)[1]
    lowest = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
    resource.setrlimit(kind, (lowest, lowest))


def reason(error: Exception) -> str:
    """Say in one sentence why a query has no answer."""
    message = str(error).split("\n\nLINE ")[0]  # what follows points into the query
    if isinstance(error, MemoryError) or message.startswith("Out of Memory Error"):
        return "the query needs more memory than it may have: select less"
    return " ".join(message.split()).split(", /home/runner/")[0]  # .. and into Lance's sources


def main() -> int:
    """Answer the request on stdin; return the exit status."""
    request = json.load(sys.stdin)
    limit(request["memory_bytes"], request["cpu_seconds"])
    try:
        schema, batches = answer(request)
    except Exception as error:
        sys.stdout.buffer.write(reason(error).encode(errors="replace"))
        return REFUSED
    names = distinct(schema.names)
    renamed = pa.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])
    with pa.ipc.new_stream(sys.stdout.buffer, renamed) as out:
        for batch in batches:
            out.write_batch(batch.rename_columns(names))
    return 0


if __name__ == "__main__":
    exit_status = main()
    sys.stdout.flush()
    os._exit(exit_status)  # stopping duckdb's and lance's threads takes as long as a small query
