"""Catalogue files: every format gives the same rows, and a bad row stops nothing."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.readers import MAX_LINE_BYTES, CatalogueError, column_names, locate, read
from assets.rules import Reason

ROWS = [{"item_id": "1", "title": "Tëa, pot"}, {"item_id": "2", "title": 'a "b"\nc'}]


def rows_of(path: Path, batch_size: int = 1):
    return [row for rows in read(path, batch_size=batch_size) for row in rows.dicts()]


def bad_of(path: Path):
    return [(b.number, b.reason) for rows in read(path, batch_size=2) for b in rows.bad]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


CSV = 'item_id,title\r\n1,"Tëa, pot"\r\n2,"a ""b""\nc"\r\n'
JSON_LINES = "\n".join(json.dumps(row) for row in ROWS)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("items.csv", CSV.encode()),
        ("items.csv", CSV.encode("utf-8-sig")),
        ("items.csv", CSV.encode("utf-16")),
        ("items.csv", CSV.replace(",", ";").replace("Tëa;", "Tëa,").encode()),
        ("items.csv.gz", CSV.encode()),
        ("items.jsonl", JSON_LINES.encode()),
        ("items.jsonl", JSON_LINES.encode("utf-8-sig")),
        ("items.jsonl", JSON_LINES.replace("\n", "\r\n\n  \n").encode()),
        ("items.jsonl.gz", JSON_LINES.encode()),
    ],
)
def test_every_text_format_gives_the_same_rows(tmp_path: Path, name: str, data: bytes):
    assert rows_of(write(tmp_path / name, data)) == ROWS


def test_parquet_gives_its_rows_in_batches_with_running_numbers(tmp_path: Path):
    path = tmp_path / "items.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS * 3), path)
    batches = list(read(path, batch_size=4))
    assert [row for rows in batches for row in rows.dicts()] == ROWS * 3
    assert [number for rows in batches for number in rows.numbers] == [1, 2, 3, 4, 5, 6]


def test_a_parquet_cell_that_python_cannot_hold_harms_no_other(tmp_path: Path):
    broken = pa.Array.from_buffers(
        pa.string(),
        2,
        [None, pa.py_buffer(pa.array([0, 1, 2], pa.int32()).buffers()[1]), pa.py_buffer(b"a\xff")],
    )
    late = pa.array([2**62, 0], pa.timestamp("us"))
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"text": broken, "when": late}), path)
    first, second = rows_of(path, 2)
    assert first["text"] == "a"
    assert second["text"] == b"\xff"
    assert second["when"].year == 1970


def test_a_csv_row_with_the_wrong_number_of_fields_is_refused_alone(tmp_path: Path):
    path = write(tmp_path / "items.csv", b"item_id,title\n1,a\n2\n3,b,c\n\n4,d\n")
    assert [row["item_id"] for row in rows_of(path)] == ["1", "4"]
    assert bad_of(path) == [(2, Reason.WRONG_FIELD_COUNT), (3, Reason.WRONG_FIELD_COUNT)]


def test_a_megabyte_in_one_csv_field_is_read(tmp_path: Path):
    path = write(tmp_path / "items.csv", b"item_id,title\n1," + b"x" * 1_000_000 + b"\n2,b\n")
    assert [len(row["title"]) for row in rows_of(path)] == [1_000_000, 1]


@pytest.mark.parametrize(
    "line",
    [b'{"item_id": "2"', b"[1]", b"3", b"null", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"],
)
def test_a_malformed_line_is_refused_alone_with_its_number(tmp_path: Path, line: bytes):
    path = write(tmp_path / "items.jsonl", b'{"item_id": "1"}\n\n' + line + b'\n{"item_id": "3"}')
    assert [row["item_id"] for row in rows_of(path)] == ["1", "3"]
    assert bad_of(path) == [(3, Reason.MALFORMED_JSON)]


def test_a_line_without_end_is_refused_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("assets.readers.MAX_LINE_BYTES", 50)
    assert MAX_LINE_BYTES > 20_000_000
    lines = [b'{"item_id": "1"}', b'{"item_id": "' + b"x" * 500 + b'"}', b'{"item_id": "3"}']
    path = write(tmp_path / "items.jsonl", b"\n".join(lines))
    assert [row["item_id"] for row in rows_of(path)] == ["1", "3"]
    assert bad_of(path) == [(2, Reason.LINE_TOO_LONG)]


def test_bytes_that_are_no_utf8_are_replaced(tmp_path: Path):
    path = write(tmp_path / "items.csv", b"item_id,title\n1,caf\xe9\n")
    assert rows_of(path) == [{"item_id": "1", "title": "caf\ufffd"}]


@pytest.mark.parametrize("name", ["items.jsonl.gz", "items.csv.gz", "items.parquet"])
def test_a_file_cut_short_is_an_error_that_names_it(tmp_path: Path, name: str):
    whole = gzip.compress(CSV.encode() * 100)
    (tmp_path / name).write_bytes(whole[:-20])
    with pytest.raises(CatalogueError, match=name):
        rows_of(tmp_path / name)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path):
    path = write(tmp_path / "items.jsonl", JSON_LINES.encode())
    batches = read(path, batch_size=1)
    next(batches)
    write(path, JSON_LINES.encode() + b" ")
    with pytest.raises(CatalogueError, match="changed while it was read"):
        list(batches)


def test_one_file_of_a_kind_is_found_and_two_are_an_error_that_names_both(tmp_path: Path):
    with pytest.raises(CatalogueError, match="no items file"):
        locate(tmp_path, "items")
    csv = write(tmp_path / "items.csv", b"item_id\n")
    assert locate(tmp_path, "items") == csv
    write(tmp_path / "items.jsonl.gz", b"")
    with pytest.raises(CatalogueError, match=r"items\.csv and items\.jsonl\.gz"):
        locate(tmp_path, "items")
    with pytest.raises(CatalogueError, match="is no folder"):
        locate(tmp_path / "nowhere", "items")


def test_a_column_named_twice_is_an_error(tmp_path: Path):
    path = write(tmp_path / "items.csv", b"item_id,item_id\n1,2\n")
    with pytest.raises(CatalogueError, match="twice"):
        rows_of(path)


def test_the_columns_of_an_empty_file_are_known_and_it_has_no_rows(tmp_path: Path):
    path = write(tmp_path / "items.csv", b"item_id,title\n")
    assert column_names(path) == ["item_id", "title"]
    assert rows_of(path) == []
    assert rows_of(write(tmp_path / "items.jsonl", b"")) == []


def test_spaces_around_the_names_of_a_csv_header_do_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "interactions.csv"
    file.write_text("user_id, item_id ,timestamp\nu,a,1\n")
    assert column_names(file) == ["user_id", "item_id", "timestamp"]
    (rows,) = read(file, batch_size=10)
    assert rows.records.schema.names == ["user_id", "item_id", "timestamp"]
