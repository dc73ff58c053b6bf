"""Catalogue files in, a batch of rows at a time: Parquet, CSV, JSON lines, plain or gzip.

A row that cannot be read is handed on as a fault with its number; a file that cannot be read is a
CatalogueError. It knows file formats, not what a column means.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from assets.rules import REPLACEMENT, Reason

SUFFIXES = (".parquet", ".csv", ".jsonl", ".csv.gz", ".jsonl.gz")
MAX_LINE_BYTES = 64 << 20  # a picture of 20 MB is 27 MB of base64
LINE_MARK = "next line"
MAX_FIELD_CHARS = 8 << 20  # a stray quote in a CSV file swallows at most this much of it


class CatalogueError(ValueError):
    """A catalogue file is missing, ambiguous or unreadable as a whole."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that holds no readable fields."""

    number: int
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Rows:
    """Some consecutive rows: readable ones with their numbers (from 1), and the others.

    The number of a row counts records, in JSON lines it counts lines.
    """

    numbers: Sequence[int]
    records: pa.RecordBatch | list[dict[str, Any]]
    bad: list[BadRow] = field(default_factory=list)

    def column(self, name: str) -> pa.Array | list[Any]:
        """Return one column; all null where no row has it."""
        if isinstance(self.records, list):
            return [record.get(name) for record in self.records]
        known = name in self.records.schema.names
        return self.records[name] if known else pa.nulls(len(self.numbers))

    def dicts(self) -> list[dict[str, Any]]:
        """Return the readable rows as dictionaries."""
        if isinstance(self.records, list):
            return self.records
        names = self.records.schema.names
        if not names:
            return [{} for _ in self.numbers]
        columns = [_values(column) for column in self.records.columns]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.Array) -> list[Any]:
    """Return a column as Python values, whatever a cell of it may hold."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):  # text that is no UTF-8, moments that Python cannot hold
        return [_value(cell) for cell in column]


def _value(cell: pa.Scalar) -> Any:
    for way in (
        lambda: cell.as_py(),
        lambda: cell.as_buffer().to_pybytes(),
        lambda: cell.cast(pa.string()).as_py(),
    ):
        try:
            return way()
        except (AttributeError, ValueError, OverflowError, NotImplementedError):
            continue
    return REPLACEMENT


def locate(folder: Path, kind: str) -> Path:
    """Return the one file of a kind ("items" or "interactions") in a catalogue folder."""
    found = [
        folder / (kind + suffix) for suffix in SUFFIXES if (folder / (kind + suffix)).is_file()
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(path.name for path in found)
        raise CatalogueError(f"{folder} holds {names}: keep one file of {kind}")
    if not folder.is_dir():
        raise CatalogueError(
            f"the catalogue {folder} is no folder: set `catalogue` in itemnest.toml"
        )
    raise CatalogueError(f"{folder} holds no {kind} file: one of {kind}{{{','.join(SUFFIXES)}}}")


def read(path: Path, *, batch_size: int, columns: Sequence[str] | None = None) -> Iterator[Rows]:
    """Yield all rows of a file in batches. `columns` spares a Parquet file the reading of others.

    Raises CatalogueError when the file is damaged as a whole or changes while it is read.
    """
    before = _stamp(path)
    if path.name.endswith(".parquet"):
        yield from _parquet(path, batch_size, columns)
    elif ".csv" in path.name:
        yield from _csv(path, batch_size)
    else:
        yield from _json_lines(path, batch_size)
    if _stamp(path) != before:
        raise CatalogueError(f"{path} changed while it was read: run again when it is complete")


def spells_values(path: Path) -> bool:
    """Tell whether a file has no types of its own, so that numbers in it are text."""
    return ".csv" in path.name


def column_names(path: Path) -> list[str] | None:
    """Return the columns that a file declares at its start; None for JSON lines, which do not."""
    if path.name.endswith(".parquet"):
        with _readable(path), pq.ParquetFile(path) as file:
            return file.schema_arrow.names
    if ".csv" in path.name:
        with _text(path) as file:
            return [name.strip() for name in next(_csv_reader(file), [])]
    return None


def _parquet(path: Path, batch_size: int, columns: Sequence[str] | None) -> Iterator[Rows]:
    with _readable(path), pq.ParquetFile(path) as file:
        known = file.schema_arrow.names
        chosen = None if columns is None else [name for name in columns if name in known]
        start = 1
        for batch in file.iter_batches(batch_size, columns=chosen):
            yield Rows(range(start, start + len(batch)), batch)
            start += len(batch)


def _csv(path: Path, batch_size: int) -> Iterator[Rows]:
    with _text(path) as file:
        reader = _csv_reader(file)
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) < len(header):
            raise CatalogueError(f"{path} names a column twice in its first line: {header}")
        start = 1
        while records := _csv_records(reader, batch_size):
            yield _csv_rows(header, records, start)
            start += len(records)


def _csv_rows(header: list[str], records: list[list[str] | csv.Error], start: int) -> Rows:
    width, bad = len(header), []
    numbers: Sequence[int] = range(start, start + len(records))
    good = [record for record in records if _fits(record, width)]
    if len(good) < len(records):
        wrong = [(n, r) for n, r in zip(numbers, records, strict=True) if not _fits(r, width)]
        bad = [_bad_record(number, record, width) for number, record in wrong]
        numbers = sorted(set(numbers) - {number for number, _ in wrong})
    columns = zip(*good, strict=True) if good else [()] * width
    texts = [pa.array(column, pa.string()) for column in columns]
    arrays = [pc.if_else(pc.equal(text, ""), None, text) for text in texts]
    return Rows(numbers, pa.RecordBatch.from_arrays(arrays, header), bad)


def _fits(record: list[str] | csv.Error, width: int) -> bool:
    return isinstance(record, list) and len(record) == width


def _bad_record(number: int, record: list[str] | csv.Error, width: int) -> BadRow:
    if isinstance(record, csv.Error):
        return BadRow(number, Reason.MALFORMED_CSV, str(record))
    detail = f"{len(record)} fields under a header of {width}"
    return BadRow(number, Reason.WRONG_FIELD_COUNT, detail)


def _csv_reader(file: IO[str]) -> Any:
    """Return a reader for the delimiter that the first line uses most."""
    start = file.readline(MAX_FIELD_CHARS)
    delimiter = max(",;\t", key=start.count)
    lines = (line for part in ((start,), file) for line in part)
    return csv.reader(lines, delimiter=delimiter)


def _csv_records(reader: Any, count: int) -> list[list[str] | csv.Error]:
    """Return up to so many records that are not blank; an Error for one that cannot be parsed."""
    records: list[list[str] | csv.Error] = []
    limit = csv.field_size_limit(MAX_FIELD_CHARS)  # global to the process: set for one batch
    try:
        while len(records) < count:
            ended = True
            try:
                for record in islice(reader, count - len(records)):
                    ended = False
                    if record:
                        records.append(record)
            except csv.Error as error:
                records.append(error)
                ended = False
            if ended:
                break
    finally:
        csv.field_size_limit(limit)
    return records


def _json_lines(path: Path, batch_size: int) -> Iterator[Rows]:
    with _bytes(path) as file:
        lines = ((n, line) for n, line in enumerate(_lines(file), 1) if not line.isspace())
        while batch := list(islice(lines, batch_size)):
            whole = _json_objects([line for _, line in batch])
            if whole is not None:
                yield Rows([number for number, _ in batch], whole)
                continue
            parsed = [(number, _json_object(number, line)) for number, line in batch]
            good = [(number, row) for number, row in parsed if isinstance(row, dict)]
            bad = [row for _, row in parsed if isinstance(row, BadRow)]
            yield Rows([number for number, _ in good], [row for _, row in good], bad)


def _json_objects(lines: list[bytes]) -> list[dict[str, Any]] | None:
    """Parse lines at once, three times as fast; None unless each is one object.

    The marks between them show that no object spans two lines and no line holds two.
    """
    text = f',"{LINE_MARK}",'.encode().join(lines).decode("utf-8", "replace")
    try:
        found = json.loads(f"[{text}]")
    except (ValueError, RecursionError):
        return None
    rows = found[::2]
    marked = found[1::2] == [LINE_MARK] * (len(lines) - 1)
    return rows if marked and all(isinstance(row, dict) for row in rows) else None


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield lines; of one that is too long only a piece longer than the limit."""
    first = file.readline(MAX_LINE_BYTES + 1).removeprefix(b"\xef\xbb\xbf")
    line = first
    while line:
        yield line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES + 1)
        line = file.readline(MAX_LINE_BYTES + 1)


def _json_object(number: int, line: bytes) -> dict[str, Any] | BadRow:
    if len(line) > MAX_LINE_BYTES:
        return BadRow(number, Reason.LINE_TOO_LONG, f"more than {MAX_LINE_BYTES:,} bytes")
    try:
        row = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        return BadRow(number, Reason.MALFORMED_JSON, str(error))
    if not isinstance(row, dict):
        kind = type(row).__name__
        return BadRow(number, Reason.MALFORMED_JSON, f"a JSON object is expected, not {kind}")
    return row


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn every failure of a whole file into an error that names it."""
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise CatalogueError(f"{path} cannot be read to its end: {error}") from error


@contextmanager
def _bytes(path: Path) -> Iterator[IO[bytes]]:
    with _readable(path), path.open("rb") as stored:
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=stored) as unpacked:
                yield cast(IO[bytes], unpacked)
        else:
            yield stored


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    """Open a CSV file: UTF-8, or UTF-16 if its first bytes say so; U+FFFD for other bytes."""
    with _bytes(path) as raw:
        buffered = io.BufferedReader(raw)  # type: ignore[arg-type]
        wide = buffered.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
        encoding = "utf-16" if wide else "utf-8-sig"
        with io.TextIOWrapper(buffered, encoding, errors="replace", newline="") as file:
            yield file


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
