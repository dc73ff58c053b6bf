import datetime as dt
import os
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import duckdb
import lance
import numpy as np
import pyarrow as pa
import pytest

from store import query, query_pool, query_worker
from store.errors import QueryRefused
from store.query import run
from store.query_worker import answer, distinct, reason

TABLES = {"items": 1, "item_vectors": 1, "text_vectors": 1}
N = 60


def items_table() -> pa.Table:
    days = [dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=i) for i in range(N)]
    prices = [float("nan") if i == 5 else None if i == 6 else i / 4 for i in range(N)]
    return pa.table(
        {
            "item_id": [f"A{i}" for i in range(N)],
            "category": [("wine", "beer", None)[i % 3] for i in range(N)],
            "price": pa.array(prices, pa.float64()),
            "rating": pa.array([i % 5 for i in range(N)], pa.float16()),
            "stock": pa.array([i % 9 for i in range(N)], pa.int32()),
            "code": pa.array(range(N), pa.uint64()),
            "sold": [i % 2 == 0 for i in range(N)],
            "day": pa.array(days, pa.timestamp("us", "UTC")),
            "date": pa.array([day.date() for day in days], pa.date32()),
            "cost": pa.array([Decimal(i) / 10 for i in range(N)], pa.decimal128(10, 2)),
            "tags": [["red", "dry"] if i % 4 else [] for i in range(N)],
            "halves": pa.array([[i / 2] for i in range(N)], pa.list_(pa.float16())),
            "image": pa.array([b"png" if i % 5 else None for i in range(N)], pa.large_binary()),
            'Odd "name"': pa.array(range(N), pa.int64()),
        }
    )


def unit_rows(dtype: type) -> pa.FixedSizeListArray:
    vectors = np.random.default_rng(0).normal(size=(N, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(dtype).ravel()), 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    items = items_table()
    ids = items["item_id"]
    lance.write_dataset(items, folder / "items.lance")
    vectors = pa.table({"item_id": ids, "fused": unit_rows(np.float32)})
    lance.write_dataset(vectors, folder / "item_vectors.lance")
    raw = pa.table({"item_id": ids, "vector": unit_rows(np.float16)})
    lance.write_dataset(raw, folder / "text_vectors.lance")
    lance.write_dataset(items.slice(0, 1), folder / "items.lance", mode="overwrite")
    return folder


def ask(folder: Path, sql: str, **changed: int) -> pa.Table:
    """Answer in this process: the same connection and checks, without the worker."""
    request = {
        "uri": str(folder),
        "tables": TABLES,
        "sql": sql,
        "max_rows": 10_000,
        "max_bytes": 1 << 20,
        "memory_bytes": 1 << 30,
        "storage_options": None,
    }
    with query_worker.connect() as database:
        schema, batches = answer(query_worker.locked(database), request | changed)
        return pa.Table.from_batches(batches, schema=schema)


def files_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def worker_processes() -> list[int]:
    """The worker that answered last, and its children."""
    worker = query_pool._idle[-1]
    worker.settle()
    group = worker._process.pid
    return [pid for pid in every_process() if group_of(pid) == group]


def every_process() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def test_an_answer_is_an_arrow_table(folder: Path):
    found = run(
        str(folder), TABLES, "SELECT category, count(*) AS n FROM items GROUP BY 1 ORDER BY 1"
    )

    assert found.to_pydict() == {"category": ["beer", "wine", None], "n": [20, 20, 20]}


def test_the_version_asked_for_is_the_one_read(folder: Path):
    sql = "SELECT count(*) AS n FROM items"
    counts = [run(str(folder), {"items": version}, sql)["n"][0].as_py() for version in (1, 2)]

    assert counts == [N, 1]


def test_a_relative_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder.parent)

    assert run(folder.name, {"items": 2}, "SELECT item_id FROM items").num_rows == 1


def test_tables_that_were_not_named_are_invisible(folder: Path):
    with pytest.raises(QueryRefused, match="text_vectors does not exist"):
        run(str(folder), {"items": 1}, "SELECT * FROM text_vectors")


def test_an_unknown_table_is_answered_with_those_that_there_are(folder: Path):
    with pytest.raises(QueryRefused) as caught:
        run(str(folder), TABLES, "SELECT * FROM itemz")

    assert str(caught.value) == (
        "Catalog Error: Table with name itemz does not exist: "
        "the tables are item_vectors, items, text_vectors"
    )


@pytest.mark.parametrize(
    "sql",
    [
        "SHOW TABLES",
        "SELECT name FROM (SHOW TABLES) WHERE name <> 'items' UNION SELECT 'items' FROM items",
        "SELECT view_name AS name FROM duckdb_views() WHERE NOT internal",
        "SELECT table_name AS name FROM information_schema.tables",
    ],
)
def test_a_listing_has_every_table(folder: Path, sql: str):
    found = run(str(folder), TABLES, sql)

    assert sorted(found["name"].to_pylist()) == sorted(TABLES)


@pytest.mark.parametrize(
    "source",
    ["ITEMS", '"Items"', "temp.main.items", "query_table('items')", "query('FROM items')"],
)
def test_a_table_is_found_however_it_is_named(folder: Path, source: str):
    assert run(str(folder), TABLES, f"SELECT count(*) AS n FROM {source}")["n"][0].as_py() == N


def test_the_books_of_the_store_are_invisible(folder: Path):
    found = run(str(folder), {"items": 1, "builds": 1, "spaces": 1, "releases": 1}, "SHOW TABLES")

    assert found["name"].to_pylist() == ["items"]


@pytest.mark.parametrize(
    "condition",
    [
        "item_id = 'A7'",
        "item_id IN ('A1', 'A3', 'nope')",
        "item_id NOT IN ('A1', 'A3')",
        "category <> 'wine'",
        "category IS NULL OR stock > 7",
        "category IS NOT DISTINCT FROM 'beer'",
        "price > 3",
        "price >= 'nan'::DOUBLE",
        "price < 3",
        "price IS NULL",
        "rating = 3",
        "stock BETWEEN 2 AND 4",
        "code < 9",
        "code >= 50 AND category = 'wine'",
        "sold",
        "NOT sold",
        "day > '2026-01-15'::TIMESTAMPTZ",
        "date = '2026-01-15'",
        "cost <= 1.5",
        "image IS NULL",
        "image = 'png'::BLOB",
        "list_contains(tags, 'dry')",
        "tags = []",
        '"Odd ""name""" = 4',
        "item_id LIKE 'A1%'",
        "stock = (SELECT max(stock) FROM items)",
    ],
)
def test_a_filter_pushed_down_selects_what_duckdb_itself_selects(folder: Path, condition: str):
    sql = f"SELECT item_id, stock FROM items WHERE {condition} ORDER BY 1"
    items = items_table().drop_columns(["halves"])  # DuckDB itself refuses float16
    widened = items.set_column(3, "rating", items["rating"].cast(pa.float32()))
    with duckdb.connect() as plain:
        plain.register("items", widened)
        expected = plain.sql(sql).to_arrow_table()

    assert ask(folder, sql).to_pydict() == expected.to_pydict()


def test_columns_and_filters_reach_the_scan(folder: Path):
    connection = query_worker.connect()
    table = query_worker.PinnedTable(lance.dataset(folder / "items.lance", version=1))
    connection.register("items", table)
    sql = "EXPLAIN SELECT category FROM items WHERE item_id = 'A5' AND stock < 3"
    plan = connection.execute(sql).fetchall()[0][1]

    assert "Projections: category" in plan
    assert "Filters" in plan
    assert plan.count("╭") == 1  # the scan is the whole plan


def test_float16_vectors_are_float32_arrays(folder: Path):
    found = ask(folder, "SELECT typeof(vector) AS t, vector FROM text_vectors ORDER BY item_id")

    assert found["t"][0].as_py() == "FLOAT[8]"
    assert found.schema.field("vector").type == pa.list_(pa.float32(), 8)


def test_float16_attributes_are_floats(folder: Path):
    found = ask(folder, "SELECT rating, halves FROM items WHERE rating = 3 AND halves[1] > 2")

    assert found.schema.types == [pa.float32(), pa.list_(pa.float32())]
    assert found["halves"][0].as_py() == [4.0]


def test_cosine_compares_vectors_and_prefixes(folder: Path):
    sql = """
        SELECT cosine(a.fused, b.fused) AS whole, cosine(a.fused, b.fused, 3) AS prefix,
               a.fused AS a, b.fused AS b
        FROM item_vectors a, item_vectors b WHERE a.item_id = 'A1' AND b.item_id = 'A2'
    """
    row = ask(folder, sql).to_pylist()[0]
    a, b = np.array(row["a"]), np.array(row["b"])
    prefix = a[:3] @ b[:3] / np.linalg.norm(a[:3]) / np.linalg.norm(b[:3])

    assert row["whole"] == pytest.approx(a @ b, abs=1e-6)
    assert row["prefix"] == pytest.approx(prefix, abs=1e-6)


@pytest.mark.parametrize(
    "sql",
    [
        "WITH a AS (SELECT 1) FROM a",
        "FROM items LIMIT 1",
        "VALUES (1)",
        "SELECT 1; -- the end",
        "DESCRIBE items",
        "SHOW TABLES",
        "SUMMARIZE SELECT price FROM items",
        "PIVOT items ON category IN ('wine') USING count(*)",
    ],
)
def test_every_form_of_select_is_answered(folder: Path, sql: str):
    assert ask(folder, sql).num_rows > 0


def test_an_answer_without_rows_keeps_its_columns(folder: Path):
    found = run(str(folder), TABLES, "SELECT item_id, price FROM items WHERE stock > 99")

    assert found.num_rows == 0
    assert found.schema.names == ["item_id", "price"]


def test_repeated_column_names_are_told_apart(folder: Path):
    found = run(str(folder), TABLES, "SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a")

    assert found.to_pylist() == [{"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}]
    assert distinct(["a", "b"]) == ["a", "b"]


def test_unusual_types_survive_the_way_back(folder: Path):
    sql = """
        SELECT 1::HUGEINT AS h, INTERVAL 1 DAY AS i, 'a'::ENUM('a', 'b') AS e, {'k': 1} AS s,
               map {'k': 1} AS m, '{}'::JSON AS j, 1.5::DECIMAL(10, 2) AS d,
               union_value(k := 1) AS u, uuid() AS id, NULL AS n
    """

    assert run(str(folder), {}, sql).num_rows == 1


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("", "empty"),
        ("-- nothing", "empty"),
        ("SELECT 1; SELECT 2", "SELECT, SELECT"),
        ("SELECT 1; DROP VIEW items", "SELECT, DROP"),
        ("EXPLAIN SELECT 1", "EXPLAIN"),
        ("EXPLAIN ANALYZE CREATE TABLE t (a INT)", "EXPLAIN"),
        ("PRAGMA database_list", "PRAGMA"),
        ("SET threads = 1", "SET"),
        ("RESET threads", "SET"),
        ("SET VARIABLE x = 1", "SET"),
        ("USE memory", "SET"),
        ("CREATE TABLE t (a INT)", "CREATE"),
        ("CREATE OR REPLACE TEMP VIEW items AS SELECT 1", "CREATE"),
        ("CREATE SECRET (TYPE s3)", "CREATE"),
        ("CREATE SEQUENCE s", "CREATE"),
        ("CREATE MACRO f() AS 1", "CREATE"),
        ("INSERT INTO items VALUES (1)", "INSERT"),
        ("UPDATE items SET stock = 1", "UPDATE"),
        ("DELETE FROM items", "DELETE"),
        ("TRUNCATE items", "DELETE"),
        ("DROP VIEW items", "DROP"),
        ("COPY items TO 'leak.csv'", "COPY"),
        ("COPY (SELECT 1) TO '/dev/stdout'", "COPY"),
        ("EXPORT DATABASE 'leak'", "EXPORT"),
        ("IMPORT DATABASE 'leak'", "PRAGMA"),
        ("ATTACH 'leak.db' AS x", "ATTACH"),
        ("ATTACH ':memory:' AS x", "ATTACH"),
        ("DETACH memory", "DETACH"),
        ("INSTALL httpfs", "LOAD"),
        ("LOAD httpfs", "LOAD"),
        ("CALL duckdb_settings()", "CALL"),
        ("CHECKPOINT", "CALL"),
        ("VACUUM", "VACUUM"),
        ("BEGIN", "TRANSACTION"),
        ("PREPARE p AS SELECT 1", "PREPARE"),
        ("EXECUTE p", "EXECUTE"),
        ("PIVOT items ON category USING count(*)", "list its values"),
        ("SELECT 1; COPY items TO 'leak.csv'", "SELECT, COPY"),
        ("SET SESSION memory_limit = '64GB'", "SET"),
        ("SET GLOBAL enable_external_access = true", "SET"),
        ("PRAGMA enable_profiling", "PRAGMA"),
        ("PRAGMA database_list; SELECT 1", "PRAGMA, SELECT"),
        ("EXPLAIN ANALYZE COPY items TO 'leak.csv'", "EXPLAIN"),
        ("CREATE TEMP TABLE t AS SELECT 1", "CREATE"),
        ("CREATE SCHEMA s", "CREATE"),
        ("CREATE TYPE t AS ENUM ('a')", "CREATE"),
        ("ALTER VIEW items RENAME TO x", "ALTER"),
        ("COMMENT ON VIEW items IS 'x'", "ALTER"),
        ("MERGE INTO items USING items AS x ON true WHEN MATCHED THEN DELETE", "MERGE"),
        ("FORCE INSTALL httpfs FROM community", "LOAD"),
        ("UPDATE EXTENSIONS", "StatementType"),
        ("DROP SECRET x", "DROP"),
        ("DEALLOCATE p", "DROP"),
        ("ANALYZE", "VACUUM"),
        ("ROLLBACK", "TRANSACTION"),
    ],
)
def test_anything_but_one_select_is_refused_by_its_name(folder: Path, sql: str, kind: str):
    before = files_of(folder)

    with pytest.raises(QueryRefused, match=kind):
        run(str(folder), TABLES, sql)

    assert files_of(folder) == before
    assert len(worker_processes()) == 2  # the worker, and the child that waits for a query


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM '{file}'",
        "FROM '{file}'",
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_text('/proc/self/environ')",
        "SELECT * FROM read_blob('{file}')",
        "SELECT * FROM read_json('{file}')",
        "SELECT * FROM sniff_csv('{file}')",
        "SELECT * FROM parquet_metadata('{file}')",
        "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
        "SELECT * FROM read_csv('http://localhost:1/x.csv')",
        "SELECT * FROM 'https://localhost:1/x.parquet'",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_duckdb('{file}')",
        "SELECT * FROM query('DROP VIEW items')",
        "SELECT * FROM query('SELECT 1; SELECT 2')",
        "SELECT * FROM query('SELECT * FROM ''{file}''')",
        "SELECT * FROM query_table('{file}')",
        "SELECT getenv('HOME')",
        "SELECT nextval('s')",
        "SELECT getvariable(current_setting('nope'))",
        "SELECT * FROM arrow_scan(1, 2, 3)",
        "SELECT * FROM pandas_scan(1)",
        "SELECT * FROM python_map_function(1)",
        "SELECT * FROM copy_database('memory', 'x')",
        "SELECT * FROM pragma_storage_info('items')",
        "SELECT * FROM load_aws_credentials()",
        "SELECT * FROM sqlite_scan('{file}', 't')",
        "WITH x AS (COPY (SELECT 1) TO '{folder}/leak.csv') SELECT * FROM x",
        "WITH x AS (COPY (SELECT 1) TO ':memory:' (FORMAT csv)) SELECT * FROM x",
        "WITH x AS (COPY (SELECT 1) TO '.tmp/leak' (FORMAT csv)) SELECT * FROM x",
        "SELECT * FROM read_text(':memory:')",
        "SELECT * FROM read_text('.tmp/leak')",
        "WITH x AS (INSERT INTO items (item_id) VALUES ('z') RETURNING *) SELECT * FROM x",
        "WITH x AS (DELETE FROM items RETURNING *) SELECT * FROM x",
        "WITH x AS (UPDATE items SET stock = 0 RETURNING *) SELECT * FROM x",
        "WITH x AS (COPY (SELECT 1) TO '/proc/self/fd/5' (FORMAT csv)) SELECT * FROM x",
        "WITH x AS (COPY items TO '/dev/stdout') SELECT * FROM x",
        "WITH x AS (CREATE TABLE t (a INT)) SELECT * FROM x",
        "WITH x AS (ATTACH ':memory:' AS y) SELECT * FROM x",
        "SELECT * FROM (COPY (SELECT 1) TO '{folder}/leak.csv')",
        "SELECT * FROM read_csv_auto('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM '/dev/fd/0'",
        "SELECT * FROM read_text('/proc/self/fd/5')",
        "SELECT * FROM read_text('/proc/self/maps')",
        "SELECT * FROM read_blob('file:///etc/passwd')",
        "SELECT * FROM read_ndjson_objects('{file}')",
        "SELECT * FROM read_parquet('{folder}/*.parquet')",
        "SELECT * FROM parquet_schema('{file}')",
        "SELECT * FROM read_xlsx('{file}')",
        "SELECT * FROM postgres_scan('host=localhost', 'public', 't')",
        "SELECT * FROM iceberg_scan('{folder}')",
        "SELECT * FROM st_read('{file}')",
        "SELECT * FROM '{folder}/items.lance'",
        "SELECT * FROM query('COPY items TO ''{folder}/leak.csv'' ')",
        "SELECT * FROM query('ATTACH '':memory:'' AS x')",
        "SELECT * FROM query('SET threads = 1')",
        "SELECT * FROM query('PRAGMA version')",
        "SELECT set_config('threads', '1', false)",
        "SELECT * FROM pragma_import_database('{folder}')",
        "SELECT * FROM seq_scan('items')",
        "SELECT * FROM checkpoint('x')",
        "SELECT * FROM force_checkpoint('x')",
        "SELECT * FROM repeat_row(1)",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT load_extension('httpfs')",
        "SELECT ?",
        "SELECT $a",
    ],
)
def test_a_select_reaches_nothing_outside_its_tables(folder: Path, tmp_path: Path, sql: str):
    file = tmp_path / "secret.csv"
    file.write_text("a,b\n1,2\n")
    before = files_of(folder)

    with pytest.raises(QueryRefused):
        run(str(folder), TABLES, sql.format(file=file, folder=tmp_path))

    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert files_of(folder) == before
    assert not [path for path in (Path("/:memory:"), Path("/.tmp")) if path.exists()]
    assert len(worker_processes()) == 2


def test_a_query_finds_no_variable_of_python(folder: Path):
    secret_table = pa.table({"a": [1]})

    with pytest.raises(query_worker.Refused, match="secret_table does not exist"):
        ask(folder, "SELECT * FROM secret_table")

    assert secret_table.num_rows == 1


def test_a_query_leaves_nothing_to_the_next(folder: Path):
    sql = "SELECT uuid()::VARCHAR AS id, random() AS r, txid_current() AS t"
    first, second = (run(str(folder), {}, sql).to_pylist()[0] for _ in range(2))

    assert first["id"] != second["id"]
    assert first["r"] != second["r"]
    assert first["t"] == second["t"]


def test_no_setting_can_be_changed_from_inside(folder: Path):
    connection = query_worker.locked(query_worker.connect())
    query_worker.fix_settings(connection, 1 << 30)
    for statement in ("SET enable_external_access = true", "SET lock_configuration = false"):
        with pytest.raises(duckdb.InvalidInputException):
            connection.execute(statement)


def test_settings_show_no_path_and_no_secret(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    monkeypatch.setenv("HTTP_PROXY", "http://user:hush-hush@localhost:1")
    tables = ("duckdb_settings()", "duckdb_views()", "duckdb_databases()", "duckdb_secrets()")
    sql = " UNION ALL ".join(f"SELECT t::VARCHAR AS told FROM {name} t" for name in tables)
    told = str(run(str(folder), TABLES, sql).to_pylist())

    for secret in ("hush-hush", str(folder), str(Path.cwd()), str(Path.home())):
        assert secret not in told


def test_the_worker_inherits_no_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")

    assert "hush-hush" not in str(query_pool._environment())
    assert query._credentials()["aws_secret_access_key"] == "hush-hush"


def test_too_many_rows_are_an_error_that_says_so(folder: Path):
    with pytest.raises(QueryRefused, match=r"larger than 59 rows.*LIMIT"):
        run(str(folder), TABLES, "SELECT item_id FROM items", max_rows=N - 1)

    assert run(str(folder), TABLES, "SELECT item_id FROM items", max_rows=N).num_rows == N


def test_too_many_bytes_are_an_error_that_says_so(folder: Path):
    with pytest.raises(QueryRefused, match="larger than 1,000 bytes"):
        run(str(folder), TABLES, "SELECT fused FROM item_vectors", max_bytes=1000)


def test_an_endless_answer_stops_at_the_row_limit(folder: Path):
    with pytest.raises(QueryRefused, match="rows"):
        run(str(folder), TABLES, "FROM range(1000000000000)", max_rows=1000)


@pytest.mark.parametrize(
    "endless",
    [
        "SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range ^ b.range = 3",
        "SELECT max(a.stock + b.stock + c.stock + d.stock + e.stock + f.stock)"
        " FROM items a, items b, items c, items d, items e, items f",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
        "SELECT sum(length(regexp_replace(repeat('ab', 20000) || range, '(a|b|ab)*c', 'x', 'g')))"
        " FROM range(10000000)",
        "SELECT max(levenshtein(repeat('ab', 30000), repeat('ba', 30000) || range))"
        " FROM range(1000)",
    ],
    ids=["range", "cross join", "recursion", "regular expression", "one long call"],
)
def test_an_endless_query_is_stopped_in_time(folder: Path, endless: str):
    run(str(folder), TABLES, "SELECT 1")
    started = time.monotonic()

    with pytest.raises(QueryRefused, match=r"did not finish in 0\.5 seconds"):
        run(str(folder), TABLES, endless, timeout_s=0.5)

    assert time.monotonic() - started < 1.5
    assert run(str(folder), TABLES, "SELECT 1 AS a").num_rows == 1


@pytest.mark.parametrize(
    "bomb",
    [
        "SELECT length(repeat(repeat('x', 1000000), 1000))",
        "SELECT list(i) FROM range(1000000000) t(i)",
        "SELECT unnest(range(1000000000))",
        "SELECT length(string_agg(repeat('x', 1000000), '')) FROM range(1000)",
        "WITH RECURSIVE t(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM t)"
        " SELECT max(length(s)) FROM t",
        "SELECT len(list_transform(range(30000), lambda x: repeat('x', 60000) || x))",
    ],
)
def test_a_memory_bomb_ends_in_its_own_process(folder: Path, bomb: str):
    with pytest.raises(QueryRefused, match="memory"):
        run(str(folder), TABLES, bomb, memory_bytes=256 << 20)

    assert run(str(folder), TABLES, "SELECT 1 AS a").num_rows == 1


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEKT 1", 'Parser Error: syntax error at or near "SELEKT"'),
        ("SELECT nope FROM items", 'Binder Error: Referenced column "nope" not found'),
        ("SELECT nope(1)", "Catalog Error: Scalar Function with name nope does not exist"),
        ("SELECT error('mine')", "mine"),
    ],
)
def test_a_mistake_in_the_query_is_told_in_one_line(folder: Path, sql: str, message: str):
    with pytest.raises(duckdb.Error) as caught:
        ask(folder, sql)
    told = reason(caught.value)

    assert message in told
    assert "\n" not in told
    assert "LINE" not in told


@pytest.mark.parametrize(
    "sql",
    ["SELECT " + "(" * 200_000 + "1" + ")" * 200_000, "SELECT " + "1 + " * 100_000 + "1"],
    ids=["brackets", "sum"],
)
def test_a_query_too_deep_to_parse_is_refused(folder: Path, sql: str):
    with pytest.raises(QueryRefused):
        run(str(folder), {}, sql, memory_bytes=256 << 20)


def test_the_working_folder_of_the_caller_lends_no_module(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "duckdb.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(tmp_path)

    assert run(str(folder), TABLES, "SELECT 1 AS a").num_rows == 1


def test_a_store_that_is_not_there_is_told(tmp_path: Path):
    with pytest.raises(QueryRefused, match="not found"):
        run(str(tmp_path / "nowhere"), {"items": 1}, "FROM items")


def test_the_next_query_goes_to_the_same_worker(folder: Path):
    run(str(folder), TABLES, "SELECT 1")
    before = query_pool._idle[-1]
    run(str(folder), TABLES, "SELECT 1")

    assert query_pool._idle[-1] is before
    assert before._process.pid in worker_processes()


def test_a_worker_that_ended_is_replaced(folder: Path):
    run(str(folder), TABLES, "SELECT 1")
    ended = query_pool._idle[-1]
    os.killpg(ended._process.pid, signal.SIGKILL)

    assert run(str(folder), TABLES, "SELECT 1 AS a").num_rows == 1
    assert ended not in query_pool._idle


def test_threads_ask_at_once(folder: Path):
    def count(least: int) -> int:
        sql = f"SELECT count(*) AS n FROM items WHERE code >= {least}"
        return run(str(folder), TABLES, sql)["n"][0].as_py()

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(count, range(18))) == [N - least for least in range(18)]
    assert len(query_pool._idle) <= query_pool.KEPT


def script(body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a client of its own, to which every warning is an error."""
    code = "import os, signal, sys\nfrom store import query_pool\nfrom store.query import run\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code + body, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_forked_process_asks_a_worker_of_its_own():
    done = script("""
def worker():
    return run("/", {}, "SELECT 1 AS a")["a"][0].as_py(), query_pool._idle[-1]._process.pid
before = worker()
if child := os.fork():
    os.waitpid(child, 0)
    assert worker() == before
else:
    assert not query_pool._idle
    assert worker() != before
print("answered", flush=True)
""")

    assert done.stderr == ""
    assert done.stdout.split() == ["answered"] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="watches the processes by pidfd")
@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit()", "endless()"])
def test_no_process_outlives_its_client(end: str):
    done = script(f"""
from threading import Timer
def endless():
    Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
    run("/", {{}}, "SELECT sum(a.range) FROM range(9999999) a, range(9999999) b", timeout_s=2)
run("/", {{}}, "SELECT 1")
print(query_pool._idle[-1]._process.pid, flush=True)
{end}
""")
    group = int(done.stdout)

    for pid in every_process():
        if group_of(pid) == group:
            assert ended(pid, within_s=10)


def ended(pid: int, within_s: float) -> bool:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with open(process, "rb", 0):
        return bool(select.select([process], [], [], within_s)[0])


def test_a_worker_that_cannot_start_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(query_pool, "WORKER", folder / "nowhere.py")
    monkeypatch.setattr(query_pool, "_idle", [])

    with pytest.raises(RuntimeError, match=r"can't open file .*nowhere\.py"):
        run(str(folder), TABLES, "SELECT 1")


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_a_worker_with_threads_does_not_fork(folder: Path, monkeypatch: pytest.MonkeyPatch):
    environment = query_pool._environment()
    del environment["JE_ARROW_MALLOC_CONF"]
    monkeypatch.setattr(query_pool, "_environment", lambda: environment)
    monkeypatch.setattr(query_pool, "_idle", [])

    with pytest.raises(RuntimeError, match="started threads when it was loaded"):
        run(str(folder), TABLES, "SELECT 1")


def test_a_client_that_blocks_the_alarm_does_not_lift_the_time_limit():
    done = script("""
signal.signal(signal.SIGALRM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
try:
    run("/", {}, "SELECT sum(a.range) FROM range(9999999) a, range(9999999) b", timeout_s=0.5)
except ValueError as error:
    print(error)
""")

    assert "did not finish in 0.5 seconds" in done.stdout


def test_an_interrupted_query_ends_with_its_worker(folder: Path):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    run(str(folder), TABLES, "SELECT 1")
    worker = query_pool._idle[-1]
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(str(folder), {}, "SELECT sum(a.range) FROM range(9999999) a, range(9999999) b")
    finally:
        signal.signal(signal.SIGALRM, before)

    assert worker._process.returncode == -signal.SIGKILL
