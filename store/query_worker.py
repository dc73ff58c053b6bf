"""The process that runs SQL: its children answer one query each, and nobody else's.

`store.query_pool` starts this file by its path with a socket as stdin, so it imports no module of
ours. The process itself runs no query and no thread: it opens an empty database and forks. The
child locks the database and waits for a request (its length, then JSON, with the writing end of a
pipe). With it, the child lets go of the socket, lowers its limits, writes an Arrow IPC stream into
the pipe, marks its end and ends; its exit status goes to the client over the socket. A query
without an answer exits with REFUSED and writes the reason instead. When the client closes the
socket, or asks nothing for a while, all end.

It expects hostile SQL: limits first, then exactly one SELECT on the locked connection. It knows
table names and versions, not what is in them.
"""

import json
import math
import os
import resource
import select
import signal
import socket
import struct
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import lance
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

REFUSED = 3
LENGTH, STATUS = struct.Struct("!Q"), struct.Struct("!i")  # before a request; after its answer
COMPLETE = b"complete"  # the answer's end, before a byte of status
IDLE_S = 300.0
BATCH_ROWS = 8192
# Lance gathers the rows that pass a filter into batches: the larger, the longer a LIMIT waits.
FILTERED_ROWS = 1024
BATCH_BYTES = 32 << 20  # a batch of pictures is cut by bytes long before it is cut by rows
# What says that a query asks which tables there are, beside or without naming some.
LISTINGS = ("show", "describe", "duckdb_", "information_schema", "pg_", "pragma_", "sqlite_")
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
CREATE MACRO cosine
    (a, b) AS array_cosine_similarity(a, b),
    (a, b, dim) AS list_cosine_similarity((a::FLOAT[])[1:dim], (b::FLOAT[])[1:dim]);
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
            batch_size=BATCH_ROWS if filter is None else FILTERED_ROWS,
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


def connect() -> duckdb.DuckDBPyConnection:
    """Open an empty database in memory that has started no thread yet: it may be forked."""
    return duckdb.connect(":memory:", config={"threads": 1, "async_threads": 0})


def locked(database: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Return a connection of its own (random numbers too) that reaches nothing outside."""
    connection = database.cursor()
    connection.execute(f"SET threads = {min(4, os.cpu_count() or 1)}")
    connection.execute(LOCKDOWN)
    return connection


def warm(connection: duckdb.DuckDBPyConnection) -> None:
    """Read one row, so that a query finds threads started and code in memory: 20 ms of it."""
    table = lance.write_dataset(pa.table({"a": ["x"]}), "memory://warm")
    connection.register("warm", PinnedTable(table))
    connection.sql("SELECT a FROM warm WHERE a = 'x'").to_arrow_reader().read_all()
    connection.unregister("warm")


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


def answer(
    connection: duckdb.DuckDBPyConnection, request: dict[str, Any]
) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Run the query and return all its rows; raise Refused at the first row or byte too many."""
    fix_settings(connection, request["memory_bytes"])
    statement = only_select(connection, request["sql"])
    register(connection, request)
    connection.execute("BEGIN TRANSACTION READ ONLY")
    try:
        relation = connection.sql(statement)  # execute() would hold all rows
    except duckdb.CatalogException as error:
        raise _unknown(error, request["tables"]) from error
    reader = relation.to_arrow_reader(BATCH_ROWS)
    batches, rows, size = [], 0, 0
    for batch in reader:
        rows, size = rows + batch.num_rows, size + batch.nbytes
        _within(rows, request["max_rows"], "rows")
        _within(size, request["max_bytes"], "bytes")
        batches.append(batch)
    return reader.schema, batches


def fix_settings(connection: duckdb.DuckDBPyConnection, memory_bytes: int) -> None:
    """Set the memory that DuckDB gives itself, and then let no setting change any more."""
    connection.execute(f"SET memory_limit = '{memory_bytes // 2**20} MiB'")
    connection.execute("SET lock_configuration = true")


def register(connection: duckdb.DuckDBPyConnection, request: dict[str, Any]) -> None:
    """Open the tables that the query reads, by name, or all if it may ask which there are.

    To open one takes 2 ms.
    """
    sql, known = request["sql"], request["tables"]
    listed = any(word in sql.lower() for word in LISTINGS)
    named = {name.lower() for name in (known if listed else connection.get_table_names(sql))}
    for name in (name for name in known if name.lower() in named):
        address, options = f"{request['uri']}/{name}.lance", request["storage_options"]
        dataset = lance.dataset(address, version=known[name], storage_options=options)
        connection.register(name, PinnedTable(dataset))


def _unknown(error: duckdb.CatalogException, known: Sequence[str]) -> Exception:
    """Say of a missing table which there are: DuckDB would offer its own, `pg_settings`."""
    first = str(error).partition("\n")[0].rstrip("!.")
    if "Table with name" not in first:
        return error
    return Refused(f"{first}: the tables are {', '.join(known) or 'none'}")


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


def limit(memory_bytes: int, timeout_s: float) -> None:
    """Have the kernel refuse what DuckDB does not: memory, written files, core dumps, time."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # both are inherited from the client
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.setitimer(signal.ITIMER_REAL, max(timeout_s, 1e-3))  # it ends native code too
    _lower(resource.RLIMIT_CPU, math.ceil(timeout_s * (os.cpu_count() or 1)) + 1)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_CORE, 0)
    if sys.platform == "linux":  # elsewhere the kernel does not hold to it
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + memory_bytes)


def _lower(kind: int, bound: int) -> None:
    hard = resource.getrlimit(kind)[1]
    lowest = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
    resource.setrlimit(kind, (lowest, lowest))


def reason(error: BaseException) -> str:
    """Say in one sentence why a query has no answer."""
    message = str(error).split("\n\nLINE ")[0]  # what follows points into the query
    if isinstance(error, MemoryError) or message.startswith("Out of Memory Error"):
        return "the query needs more memory than it may have: select less"
    return " ".join(message.split()).split(", /home/runner/")[0]  # .. and into Lance's sources


def respond(
    connection: duckdb.DuckDBPyConnection, request: dict[str, Any], answers: BinaryIO
) -> int:
    """Write the rows, or why there are none; return the exit status."""
    try:
        limit(request["memory_bytes"], request["timeout_s"])
        schema, batches = answer(connection, request)
    except BaseException as error:  # a panic of Lance is no Exception
        answers.write(reason(error).encode(errors="replace"))
        return REFUSED
    names = distinct(schema.names)
    renamed = pa.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])
    with pa.ipc.new_stream(answers, renamed) as out:
        for batch in batches:
            out.write_batch(batch.rename_columns(names))
    return 0


def receive(control: socket.socket) -> tuple[bytes, BinaryIO] | None:
    """Wait for a request and the pipe for its answer; None if none comes any more."""
    if not select.select([control], [], [], IDLE_S)[0]:
        return None
    head, pipes, *_ = socket.recv_fds(control, LENGTH.size, 1)
    if not head:
        return None
    with control.makefile("rb") as stream:
        request = stream.read(LENGTH.unpack(head)[0])
    return request, os.fdopen(pipes[0], "wb")


def stand_by(database: duckdb.DuckDBPyConnection, control: socket.socket, busy: int) -> int:
    """Be ready for one request, tell `busy` when it has come, answer it; return the exit status."""
    connection = locked(database)
    warm(connection)
    received = receive(control)
    if received is None:
        return 0
    os.write(busy, b"1")
    os.close(busy)
    control.close()
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    request, answers = received
    with answers:
        exit_status = respond(connection, json.loads(request), answers)
        answers.write(COMPLETE + bytes([exit_status]))
    return exit_status


def fork(database: duckdb.DuckDBPyConnection, control: socket.socket) -> tuple[int, int]:
    """Start a child; return its id and a pipe on which it tells that it took a request."""
    if sys.platform == "linux" and len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a library started threads when it was loaded: a fork might hang")
    told, busy = os.pipe()
    if child := os.fork():
        os.close(busy)
        return child, told
    os.close(told)
    exit_status = 1
    try:
        exit_status = stand_by(database, control, busy)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(exit_status)  # stopping the threads takes as long as a small query


def serve(control: socket.socket) -> None:
    """Have one child stand by and tell the client how each ended; return when it is gone."""
    database = connect()
    ready, told = fork(database, control)
    while os.read(told, 1):
        os.close(told)
        busy = ready
        ready, told = fork(database, control)  # it gets ready while the other one answers
        control.sendall(STATUS.pack(os.waitstatus_to_exitcode(os.waitpid(busy, 0)[1])))


if __name__ == "__main__":
    # Lance warns of every fork: here it has no thread yet that a child could miss
    warnings.filterwarnings("ignore", "lance is not fork-safe")
    serve(socket.socket(fileno=0))
