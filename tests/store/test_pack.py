import os
from pathlib import Path

import numpy as np
import pytest

from store import BadPack, ItemStore
from store.pack import KEPT, Packs
from store.tables import Tables
from tests.store.shelf import publish, rows

IDS = [f"i{number}" for number in range(50)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    publish(tmp_path / "store", IDS)
    return tmp_path / "store"


def read(folder: Path) -> np.ndarray:
    return ItemStore.open(folder).get_item_vectors(IDS, 8)


def packed(folder: Path, name: str = "fused_target.8.f32") -> Path:
    (found,) = folder.glob(f"packs/r1-*/{name}")
    return found


@pytest.mark.parametrize("name", ["fused_target.8.f32", "names"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "lengthened"])
def test_a_damaged_pack_is_built_anew(folder: Path, name: str, damage: str):
    before = read(folder)
    path = packed(folder, name)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle] ^= damage == "flipped"
    cut = {"cut": data[:middle], "emptied": b"", "flipped": data, "lengthened": data + b"\0"}
    path.unlink()
    path.write_bytes(cut[damage])
    np.testing.assert_array_equal(read(folder), before)
    assert path.stat().st_size == len(data)


def test_a_pack_is_built_once_and_read_by_all(folder: Path):
    read(folder)
    written = packed(folder).stat()
    read(folder)
    assert packed(folder).stat().st_mtime_ns == written.st_mtime_ns
    assert packed(folder).stat().st_ino == written.st_ino


def test_what_a_killed_builder_left_is_removed(folder: Path):
    read(folder)
    packed(folder).unlink()
    left = packed(folder, "names").with_name("fused_target.8.f32.1.draft")
    left.write_bytes(b"half")
    read(folder)
    assert not left.exists()


def test_packs_of_releases_used_long_ago_are_removed_but_read_on(folder: Path):
    old = ItemStore.open(folder)
    before = old.get_item_vectors(IDS, 8)
    os.utime(packed(folder).parent, (0, 0))
    for number in range(KEPT):
        publish(folder, IDS, seed=number + 1)
        read(folder)
    assert len(list((folder / "packs").iterdir())) == KEPT
    np.testing.assert_array_equal(old.get_item_vectors(IDS, 8), before)
    np.testing.assert_array_equal(old.get_item_vectors(IDS, 4), old.item_matrix(4).vectors)


def test_a_store_made_anew_at_the_same_place_does_not_read_old_packs(tmp_path: Path):
    publish(tmp_path / "store", IDS)
    old = read(tmp_path / "store")
    packs = tmp_path / "store" / "packs"
    packs.rename(tmp_path / "kept")
    (tmp_path / "store").rename(tmp_path / "gone")
    publish(tmp_path / "store", IDS, seed=5)
    (tmp_path / "kept").rename(packs)
    assert not np.array_equal(read(tmp_path / "store"), old)


def test_rows_of_other_items_are_never_packed(folder: Path):
    tables = Tables(folder)
    packs = Packs(tables, ItemStore.open(folder).release)
    assert packs.ids.to_pylist() == IDS
    packs._version = tables.replace("item_vectors", rows(IDS[::-1]))
    with pytest.raises(BadPack, match="r1: rows 0… of content are of other items"):
        packs.vectors("content", 8)
