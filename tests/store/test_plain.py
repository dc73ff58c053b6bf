from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from store import ItemStore, plain
from store.schema import item_vectors_table, matrix
from store.tables import Tables
from tests.store.shelf import publish

WIDTH = 64


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "store")


def some_rows(first: int, n: int, width: int = WIDTH):
    vectors = np.random.default_rng(first).standard_normal((n, width)).astype(np.float32)
    return item_vectors_table([f"i{first + row}" for row in range(n)], {"fused": vectors})


def scanned(tables: Tables) -> np.ndarray:
    return matrix(tables.read("item_vectors", columns=["fused"])["fused"])


def test_rows_lie_plainly_in_table_order(tables: Tables):
    tables.replace("item_vectors", some_rows(0, 300))
    for first in (300, 600):
        tables.append("item_vectors", some_rows(first, 300))
    maps = plain.mapped(tables.dataset("item_vectors"), "fused")
    assert maps is not None
    assert len(maps) == 3
    np.testing.assert_array_equal(np.concatenate(maps), scanned(tables))


def test_rows_of_a_table_with_deleted_ones_are_left_to_a_scan(tables: Tables):
    tables.replace("item_vectors", some_rows(0, 300))
    tables.delete("item_vectors", "item_id", [f"i{number}" for number in range(100)])
    assert plain.mapped(tables.dataset("item_vectors"), "fused") is None
    tables.maintain({}, grace=timedelta(0))
    maps = plain.mapped(tables.dataset("item_vectors"), "fused")
    assert maps is not None
    np.testing.assert_array_equal(np.concatenate(maps), scanned(tables))


def test_short_rows_which_lance_packs_otherwise_are_left_to_a_scan(tables: Tables):
    tables.replace("item_vectors", some_rows(0, 300, width=8))
    assert plain.mapped(tables.dataset("item_vectors"), "fused") is None


def test_what_lies_there_must_be_what_lance_reads(tables: Tables):
    tables.replace("item_vectors", some_rows(0, 300))
    data = tables.dataset("item_vectors")
    maps = plain.mapped(data, "fused")
    assert maps is not None
    (file,) = Path(data.uri, "data").iterdir()
    content = file.read_bytes()
    start = content.index(maps[0][0].tobytes())
    moved = (
        content[:start] + content[start + 4 : start + 4 * WIDTH * 300] + content[start : start + 4]
    )
    file.write_bytes(moved + content[start + 4 * WIDTH * 300 :])

    class Unmoved:
        """The dataset as Lance knew it before its file was touched."""

        def __getattr__(self, name: str):
            return getattr(data, name)

        def take(self, places: list[int], columns: list[str]):
            before = some_rows(0, 300).select(columns)
            return before.take(places)

    assert plain.mapped(Unmoved(), "fused") is None


@pytest.mark.parametrize("view", ["fused", "content"])
def test_packs_are_the_same_whichever_way_they_are_read(
    tmp_path: Path, view: str, monkeypatch: pytest.MonkeyPatch
):
    ids = [str(number) for number in range(500)]
    publish(tmp_path / "store", ids)
    store = ItemStore.open(tmp_path / "store")
    wide = np.random.default_rng(1).standard_normal((500, WIDTH))
    store.publish_vectors(ids, wide, view=view, dims=[16, WIDTH])
    mapped = store.get_item_vectors(ids, 16, view=view)
    monkeypatch.setattr(plain, "mapped", lambda data, column: None)
    for file in (tmp_path / "store" / "packs").glob("r2-*/*.f32"):
        file.unlink()
    found = ItemStore.open(tmp_path / "store").get_item_vectors(ids, 16, view=view)
    np.testing.assert_array_equal(found, mapped)
