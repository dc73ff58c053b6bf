"""What LanceDB 0.40 does in silence: that it still does, and that the store does not pass it on.

Every pair shows the trap in the installed library first, so that a release without it tells us.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import BTree
from lancedb.table import LanceTable

from store import (
    BadTable,
    BadVectors,
    ItemStore,
    MissingPart,
    StoreLocked,
    UnknownIds,
    releases,
)
from store.schema import item_vectors_table, vector_array, vectors_schema
from store.tables import PRIMARY_KEY, Tables, refuse_other_lance
from store.upkeep import retried, unindexed
from tests.store.shelf import draft, items, rows, vectors

KEYED = pa.schema([pa.field("item_id", pa.string(), nullable=False), pa.field("n", pa.int64())])


def numbered(ids: list[str], n: int) -> pa.Table:
    return pa.table({"item_id": ids, "n": [n] * len(ids)}, schema=KEYED)


def merge(table: LanceTable, rows: pa.Table) -> None:
    table.merge_insert("item_id").when_matched_update_all().when_not_matched_insert_all().execute(
        rows
    )


def ids(tables: Tables) -> list[str]:
    return sorted(tables.read("items")["item_id"].to_pylist())


class Overtaken(Tables):
    """A writer that another one overtakes, once, between its look at the table and its commit."""

    meanwhile: Callable[[], object] | None = None

    def _open(self, name: str, key: str | None) -> LanceTable:
        table = super()._open(name, key)
        if self.meanwhile:
            self.meanwhile()
        return table


@pytest.fixture
def raw(tmp_path: Path) -> lancedb.DBConnection:
    return lancedb.connect(tmp_path / "raw")


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "store")


# Concurrent merges of the same new keys


@pytest.mark.parametrize("indexed", [False, True])
def test_trap_a_merge_repeats_a_key_that_came_in_since_it_was_read(
    raw: lancedb.DBConnection, indexed: bool
):
    table = raw.create_table("items", numbered(["a"], 0))
    if indexed:  # the declared key helps no more
        table.set_unenforced_primary_key("item_id")
        table.create_index("item_id", config=BTree())
    overtaken = raw.open_table("items")
    merge(table, numbered(["b"], 1))
    merge(overtaken, numbered(["b"], 2))
    assert raw.open_table("items").count_rows("item_id = 'b'") == 2


@pytest.mark.parametrize("write", ["upsert", "insert_new"])
@pytest.mark.parametrize("indexed", [False, True])
def test_a_write_adds_no_key_that_came_in_since_it_looked(
    tmp_path: Path, write: str, indexed: bool
):
    tables = Overtaken(tmp_path / "store")
    tables.upsert("items", numbered(["a"], 0))
    other = lancedb.connect(tables.uri).open_table("items")
    if indexed:
        other.create_index("item_id", config=BTree())
    tables.meanwhile = lambda: merge(other, numbered(["b"], 1))
    getattr(tables, write)("items", numbered(["b", "c"], 2))
    assert ids(tables) == ["a", "b", "c"]
    assert tables.count("items", where="item_id = 'b' AND n = 2") == (write == "upsert")


def test_a_write_that_finds_a_key_repeated_is_taken_back_and_nobody_elses_is(tmp_path: Path):
    tables = Overtaken(tmp_path / "store")
    tables.upsert("items", numbered(["a"], 0))
    other = lancedb.connect(tables.uri).open_table("items")
    tables.meanwhile = lambda: other.add(numbered(["b", "x"], 1))
    with pytest.raises(BadTable, match=r"\('b'\); the write was taken back"):
        tables.append("items", numbered(["b", "c"], 2))
    assert ids(tables) == ["a", "b", "x"]


# Restoring


def test_trap_restoring_takes_back_what_others_committed_since(raw: lancedb.DBConnection):
    table = raw.create_table("items", numbered(["a"], 0))
    raw.open_table("items").add(numbered(["b"], 1))
    table.restore(1)
    assert raw.open_table("items").count_rows() == 1


class Watched(Tables):
    """A writer beside whom another commits right after this one's look number `left`."""

    left = 0

    def version(self, name: str) -> int | None:
        return self._overtaken(name, super().version(name))

    def read(self, name: str, **how) -> pa.Table:
        return self._overtaken(name, super().read(name, **how))

    def _overtaken(self, name: str, seen: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            lancedb.connect(self.uri).open_table(name).add(numbered(["later"], 3))
        return seen


@pytest.mark.parametrize("moment", [2, 3])  # while the write is proven; while it is taken back
def test_taking_a_write_back_leaves_a_later_commit_of_another_writer(tmp_path: Path, moment: int):
    tables = Watched(tmp_path / "store")
    tables.upsert("items", numbered(["a"], 0))
    tables.left = moment
    with pytest.raises(BadTable, match=r"\('a'\); another writer has written since, so the write"):
        tables.append("items", numbered(["a", "b"], 2))
    assert ids(tables) == ["a", "a", "b", "later"]


def test_a_first_write_is_not_taken_back_with_what_another_writer_has_added(tmp_path: Path):
    tables = Watched(tmp_path / "store")
    tables.left = 2
    with pytest.raises(BadTable, match=r"another writer has written since"):
        tables.replace("items", numbered(["a", "a"], 0))
    assert ids(tables) == ["a", "a", "later"]


# Order, repeats and unknown ids


def test_trap_lance_answers_in_its_own_order_and_leaves_out_what_is_unknown(
    raw: lancedb.DBConnection,
):
    table = raw.create_table("items", items(["a", "b", "c"]))
    taken = table.take_offsets([2, 0, 2, 99]).to_arrow()["item_id"].to_pylist()
    assert taken == ["a", "c", "c"]
    found = table.search().where("item_id IN ('c', 'a', 'c', 'nope')").to_arrow()
    assert found["item_id"].to_pylist() == ["a", "c"]


def test_vectors_come_in_the_order_asked_with_repeats_and_an_unknown_id_is_named(tmp_path: Path):
    store, matrix = ItemStore.create(tmp_path), vectors(3)
    store.publish_vectors(["a", "b", "c"], matrix)
    np.testing.assert_allclose(
        store.get_item_vectors(["c", "a", "c"]), matrix[[2, 0, 2]], atol=1e-6
    )
    with pytest.raises(UnknownIds, match="'nope'"):
        store.get_item_vectors(["c", "nope"])


def test_trap_offsets_name_other_rows_after_a_delete(raw: lancedb.DBConnection):
    table = raw.create_table("items", items(["a", "b", "c"]))
    table.delete("item_id = 'a'")
    assert table.take_offsets([1]).to_arrow()["item_id"].to_pylist() == ["c"]


def test_ids_name_their_own_vectors_after_deletes_and_compaction(tmp_path: Path):
    tables, matrix = Tables(tmp_path), vectors(4)
    view = {"views": {"fused": []}, "default_view": "fused", "dims": [16], "width": 16}
    for gone in ([], ["a"]):
        tables.upsert("item_vectors", item_vectors_table(list("abcd"), {"fused": matrix}))
        version = tables.delete("item_vectors", "item_id", gone)
        releases.publish(tables, draft({"item_vectors": version}, description=view))
        tables.maintain(releases.pinned(tables, keep=2), grace=timedelta(0))
    for name, found in (("r1", [True, True]), ("r2", [False, True])):
        answer = ItemStore.open(tmp_path, release=name).lookup(["a", "d"])
        assert answer.found.tolist() == found
        np.testing.assert_allclose(answer.vectors[1], matrix[3], atol=1e-6)


# Upkeep


def grown(raw: lancedb.DBConnection) -> LanceTable:
    """A table with a tagged version and a row that its index lacks."""
    table = raw.create_table("items", numbered(["a"], 0))
    table.create_index("item_id", config=BTree())
    table.tags.create("release", table.version)
    table.add(numbered(["b"], 1))
    return table


def test_trap_optimize_stops_before_the_index_once_an_old_version_has_a_tag(
    raw: lancedb.DBConnection,
):
    table = grown(raw)
    with pytest.raises(RuntimeError, match="tagged version"):
        table.optimize(cleanup_older_than=timedelta(milliseconds=1))
    table.checkout_latest()
    assert table.index_stats("item_id_idx").num_unindexed_rows > 0


def test_upkeep_completes_the_index_and_keeps_a_version_with_a_tag_of_anybodys(tmp_path: Path):
    table = grown(lancedb.connect(tmp_path))
    tagged = table.tags.get_version("release")
    tables = Tables(tmp_path)
    tables.maintain({}, grace=timedelta(0))
    assert unindexed(tables.dataset("items")) == {"item_id_idx": 0}
    assert tables.count("items", version=tagged) == 1


def preempted(raw: lancedb.DBConnection) -> lance.LanceDataset:
    """A table of two fragments, as it was before another writer changed one of them."""
    table = raw.create_table("items", numbered(["a"], 0))
    table.add(numbered(["b"], 1))
    data = table.to_lance()
    merge(table, numbered(["a"], 2))
    return data


def test_trap_compaction_beside_a_writer_fails(raw: lancedb.DBConnection):
    with pytest.raises(OSError, match="Retryable commit conflict"):
        preempted(raw).optimize.compact_files()


def test_upkeep_is_taken_again_when_a_writer_preempts_it_but_not_for_ever(
    raw: lancedb.DBConnection,
):
    stale = preempted(raw)
    opened = iter([stale, stale, lance.dataset(stale.uri)])
    retried(lambda: next(opened), lambda data: data.optimize.compact_files())
    assert len(lance.dataset(stale.uri).get_fragments()) == 1
    with pytest.raises(StoreLocked, match="other writers preempted upkeep again and again"):
        retried(lambda: stale, lambda data: data.optimize.compact_files())


def test_trap_rows_written_after_an_index_are_not_in_it(raw: lancedb.DBConnection):
    table = raw.create_table("items", items(["a", "b"]))
    table.create_index("item_id", config=BTree())
    merge(table, pa.table({"item_id": ["a"], "price": [9.0]}))  # and not one column alone
    assert table.index_stats("item_id_idx").num_unindexed_rows > 0


@pytest.mark.parametrize("write", ["upsert", "insert_new", "append"])
def test_every_row_is_in_the_index_of_the_version_that_a_write_returns(tables: Tables, write: str):
    tables.upsert("items", items(["a", "b"]))
    lancedb.connect(tables.uri).open_table("items").create_index("item_id", config=BTree())
    getattr(tables, write)("items", items(["c", "d"]))
    version = tables.upsert("items", items(["a", "e"]))
    data = tables.dataset("items", version=version)
    assert unindexed(data) == {"item_id_idx": 0}
    plan = data.scanner(filter="item_id = 'e'").explain_plan()
    assert "ScalarIndexQuery" in plan
    assert tables.take("items", "item_id", ["e", "a", "c"])["price"].to_pylist() == [1.0, 0.0, 0.0]


def test_trap_overwriting_forgets_the_declared_key(raw: lancedb.DBConnection):
    table = raw.create_table("items", numbered(["a"], 0))
    table.set_unenforced_primary_key("item_id")
    table.add(numbered(["b"], 1), mode="overwrite")
    assert not (table.schema.field("item_id").metadata or {}).keys() & PRIMARY_KEY.keys()


def test_replacing_declares_the_key_again(tables: Tables):
    tables.upsert("items", numbered(["a"], 0))
    tables.replace("items", numbered(["b"], 1))
    assert tables.schema("items").field("item_id").metadata == PRIMARY_KEY


# Values


def test_trap_a_zero_vector_is_missing_from_the_answer(raw: lancedb.DBConnection):
    matrix = vectors(4)
    matrix[2] = 0
    table = raw.create_table("v", pa.table({"n": range(4), "vector": vector_array(matrix)}))
    answer = table.search(np.ones(16, np.float32)).distance_type("cosine").limit(4).to_arrow()
    assert sorted(answer["n"].to_pylist()) == [0, 1, 3]


@pytest.mark.parametrize("hole", [None, [np.nan] * 4])
def test_trap_null_and_nan_are_taken_in_a_narrow_column_that_is_not_named_vector(
    raw: lancedb.DBConnection, hole: list[float] | None
):
    column = pa.array([[1.0] * 4, hole], pa.list_(pa.float32(), 4))
    table = raw.create_table("v", pa.table({"fused": column}))
    assert table.count_rows() == 2
    read = table.to_arrow()["fused"].combine_chunks()
    assert len(read.flatten()) == (8 if hole else 4)  # with a null it is no matrix any more


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_vector_without_direction_is_not_published(tmp_path: Path, value: float):
    store, matrix = ItemStore.create(tmp_path), vectors(4)[:, :4].copy()
    matrix[2] = value
    with pytest.raises(BadVectors):
        store.publish_vectors(list("abcd"), matrix)
    tables = Tables(tmp_path)
    table = item_vectors_table(list("abcd"), {"fused": matrix})
    shape = {"views": {"fused": []}, "default_view": "fused", "dims": [4], "width": 4}
    pins = {"item_vectors": tables.replace("item_vectors", table)}
    with pytest.raises(BadVectors, match="'c'"):
        releases.publish(tables, draft(pins, description=shape))


def test_a_search_answers_with_every_item_there_is(tmp_path: Path):
    store = ItemStore.create(tmp_path)
    store.publish_vectors(list("abcd"), np.eye(4, 16, dtype=np.float32))
    assert sorted(store.search("a", k=4)["item_id"].to_pylist()) == ["b", "c", "d"]


def test_null_vectors_are_refused_when_written_and_when_published(tables: Tables):
    tables.upsert("item_vectors", item_vectors_table(["a"], {"fused": vectors(1)[:, :4]}))
    null = pa.nulls(1, pa.list_(pa.float32(), 4))
    holey = tables.read("item_vectors").set_column(1, "fused", null)
    with pytest.raises(BadTable, match=r"item_vectors: .*'fused'.*null"):
        tables.upsert("item_vectors", holey)
    pins = {"item_vectors": tables.replace("item_vectors", holey)}
    shape = {"views": {"fused": []}, "default_view": "fused", "dims": [4], "width": 4}
    with pytest.raises(BadVectors, match=r"fused is .* must be .* not null"):
        releases.publish(tables, draft(pins, description=shape))


def encoded() -> pa.Table:
    plain = {name: ["a"] for name in ("key", "item_id", "encoder", "content_hash")}
    halves = vector_array(np.ones((1, 4), np.float16))
    return pa.table(plain | {"cut_tokens": [0], "vector": halves}, schema=vectors_schema(4))


def test_trap_duckdb_reads_no_column_of_a_table_that_has_a_float16_one(tmp_path: Path):
    data = lance.write_dataset(encoded(), tmp_path / "v.lance")
    unsupported = pytest.raises(duckdb.Error, match="Unsupported Internal Arrow Type")
    with duckdb.connect() as connection, unsupported:
        connection.register("v", data)


def test_sql_reads_float16(tables: Tables):
    pins = {
        "item_vectors": tables.replace("item_vectors", rows(["a"])),
        "text_vectors": tables.append("text_vectors", encoded()),
    }
    releases.publish(tables, draft(pins))
    answer = ItemStore.open(tables.uri).sql("SELECT item_id, vector[1] AS x FROM text_vectors")
    assert answer.to_pylist() == [{"item_id": "a", "x": 1.0}]


# Versions


def test_trap_a_table_that_is_open_misses_later_commits(raw: lancedb.DBConnection):
    table = raw.create_table("items", numbered(["a"], 0))
    raw.open_table("items").add(numbered(["b"], 1))
    assert table.count_rows() == 1


def test_tables_that_are_open_see_later_commits(tables: Tables):
    tables.upsert("items", numbered(["a"], 0))
    reader = Tables(tables.uri)
    assert reader.count("items") == 1
    tables.upsert("items", numbered(["b"], 1))
    assert reader.count("items") == 2


def test_a_store_is_not_written_to_with_another_pylance(
    tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tables.upsert("items", numbered(["a"], 0))
    installed = tmp_path / "site" / "pylance-14.0.2.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: pylance\nVersion: 14.0.2\n")
    monkeypatch.syspath_prepend(installed.parent)
    with pytest.raises(MissingPart, match=r"pylance 14\.0\.2 is installed"):
        tables.upsert("items", numbered(["b"], 0))
    with pytest.raises(MissingPart, match=r"pylance 14\.0\.2 is installed"):
        tables.maintain({})
    assert ids(tables) == ["a"]


@pytest.mark.parametrize("pair", [("0.40.0", "14.0.2"), ("0.41.0", "13.0.0"), ("0.4", "13")])
def test_packages_that_were_not_built_for_each_other_do_not_write(pair: tuple[str, str]):
    with pytest.raises(MissingPart, match=r"is installed, and the store writes with .* alone"):
        refuse_other_lance(*pair)
    refuse_other_lance("0.40.1", "13.0.1")
