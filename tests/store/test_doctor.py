"""The doctor looks at everything that a release is made of, and names what is wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from store import ItemStore, ann, doctor, releases
from store.schema import RELEASES, SPACES
from store.tables import Tables
from tests.store.shelf import draft, items, rows

IDS = [f"A{number}" for number in range(30)]
WEIGHTS = b'\x3a\0\0\0\0\0\0\0{"map":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  ' + bytes(8)


def publish(uri: Path, *, titled: list[str] = IDS, weights: bytes = WEIGHTS) -> Tables:
    """Publish a release that promises what those of the graph do."""
    tables = Tables(uri)
    space = {"space_id": "space", "description": '{"space": {"seed": 0}}', "weights": weights}
    pins = {
        "items": tables.replace("items", items(titled)),
        "spaces": tables.replace("spaces", pa.Table.from_pylist([space], schema=SPACES)),
        "item_vectors": tables.replace("item_vectors", rows(IDS)),
    }
    made = draft(pins)
    releases.publish(tables, draft(pins, description={**made.description, "makings": "m"}))
    return tables


def wrong(tables: Tables) -> dict[str, str]:
    return {found.check: found.detail for found in doctor.examine(tables) if not found.ok}


def test_a_whole_release_has_nothing_wrong_with_it(tmp_path: Path) -> None:
    tables = publish(tmp_path)
    ItemStore.open(tmp_path).get_item_vectors(["A1"], 4)
    found = list(doctor.examine(tables))
    assert all(each.ok for each in found), found
    assert {"table items", "vectors", "items", "space", "pack ids.index"} <= {
        each.check for each in found
    }


def test_vectors_without_an_item_and_items_without_a_vector_are_named(tmp_path: Path) -> None:
    found = wrong(publish(tmp_path, titled=[*IDS[1:], "B1"]))
    assert list(found) == ["items"]
    assert "1 items have no vector ('B1')" in found["items"]
    assert "1 vectors have no item ('A0')" in found["items"]


@pytest.mark.parametrize("weights", [WEIGHTS[:-1], b"", b"\xff" * 20])
def test_a_space_that_is_cut_short_is_named(tmp_path: Path, weights: bytes) -> None:
    assert list(wrong(publish(tmp_path, weights=weights))) == ["space"]


def test_a_key_that_is_there_twice_is_named_with_its_table(tmp_path: Path) -> None:
    tables = publish(tmp_path)
    tables.dataset("items").insert(items(["A1"]))  # past the store
    doubled = draft(releases.visible(tables).tables | {"items": tables.version("items") or 0})
    releases.publish(tables, doubled)
    assert "'A1'" in wrong(tables)["table items"]


@pytest.mark.parametrize(("rows_promised", "checks_wrong"), [(30, []), (31, ["index"])])
def test_an_index_that_is_not_the_promised_one_is_named(
    tmp_path: Path, rows_promised: int, checks_wrong: list[str]
) -> None:
    assert list(wrong(indexed(tmp_path, rows=rows_promised))) == checks_wrong


def test_an_index_whose_files_are_gone_is_named(tmp_path: Path) -> None:
    tables = indexed(tmp_path)
    for file in tmp_path.rglob("_indices/*/*"):
        file.unlink()
    found = wrong(tables)
    assert list(found) == ["index"]
    assert "its index cannot be read" in found["index"]
    assert "publish it anew" in found["index"]


def test_a_search_column_of_other_vectors_is_named(tmp_path: Path) -> None:
    tables = indexed(tmp_path, column="fused_context")
    assert "of 30 rows is not the prefix of fused_context ('A0'" in wrong(tables)["index"]


def test_vectors_other_than_those_written_are_named(tmp_path: Path) -> None:
    tables = publish(tmp_path)
    held = [row.as_py() for row in tables.read("item_vectors")["content"].take([3, 7])]
    one, other = (np.array(row, np.float32).tobytes() for row in held)
    (file,) = (tmp_path / "item_vectors.lance/data").iterdir()
    content = file.read_bytes()
    assert content.count(one) == content.count(other) == 1
    swapped = content.replace(one, b"?" * len(one)).replace(other, one)
    file.write_bytes(swapped.replace(b"?" * len(one), other))
    found = wrong(tables)
    assert list(found) == ["digests"]
    assert "the vectors of 2 items are not those that were written ('A3', 'A7')" in found["digests"]


def indexed(folder: Path, *, rows: int = 30, column: str = "fused_target") -> Tables:
    """Publish a release that is indexed and promises `rows` rows and a prefix of `column`."""
    tables = publish(folder)
    first = releases.visible(tables)
    version = ann.build(tables, first.tables["item_vectors"], "fused_target", 8)
    index = ann.described(tables, version) | {"rows": rows}
    plan = {"index": index, "column": column, "prefix": 8}
    release = replace(
        first,
        event=2,
        name="r2",
        tables=first.tables | {"item_vectors": version},
        description=first.description | {"search": plan},
    )
    tables.append("releases", pa.Table.from_pylist([release.to_row()], schema=RELEASES))
    return tables


def test_a_block_of_a_pack_that_was_changed_is_named_with_its_file(tmp_path: Path) -> None:
    tables = publish(tmp_path)
    ItemStore.open(tmp_path).get_item_vectors(["A1"], 4)
    for pack in [*(tmp_path / "packs").rglob("*.f32"), *(tmp_path / "packs").rglob("*.index")]:
        content = bytearray(pack.read_bytes())
        content[40] ^= 1
        pack.write_bytes(content)
    found = wrong(tables)
    assert set(found) == {"pack fused_target.4.f32", "pack ids.index"}
    assert all(str(tmp_path) in detail and "delete" in detail for detail in found.values())
