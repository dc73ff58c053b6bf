import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import BadPack, ItemStore, packfiles
from store.pack import Packs
from store.packfiles import IDLE_DAYS
from store.tables import Tables
from tests.store.shelf import publish, rows

IDS = [f"i{number}" for number in range(50)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    publish(tmp_path / "store", IDS)
    return tmp_path / "store"


def read(folder: Path) -> np.ndarray:
    store = ItemStore.open(folder)
    assert store.item_matrix(8).ids == IDS
    return store.get_item_vectors(IDS, 8)


def packed(folder: Path, name: str = "fused_target.8.f32") -> Path:
    (found,) = folder.glob(f"packs/r1-*/{name}")
    return found


@pytest.mark.parametrize("name", ["fused_target.8.f32", "ids.index", "names"])
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


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf") / "store"
    publish(folder, IDS)
    return folder


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["fused_target.8.f32", "ids.index", "names"]),
    where=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    ids=st.lists(st.sampled_from(IDS), min_size=1, max_size=5),
)
def test_a_flipped_bit_is_never_read(shelf: Path, name: str, where: float, bit: int, ids: list):
    truth = dict(zip(IDS, read(shelf), strict=True))
    path = packed(shelf, name)
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    path.unlink()
    path.write_bytes(data)
    found = ItemStore.open(shelf).get_item_vectors(ids, 8)
    np.testing.assert_array_equal(found, [truth[item] for item in ids])


def test_damage_met_while_reading_is_repaired_for_the_reader_too(tmp_path: Path):
    ids = [f"i{number}" for number in range(12_000)]
    publish(tmp_path / "store", ids)
    whole = ItemStore.open(tmp_path / "store").get_item_vectors(ids, 8)
    store = ItemStore.open(tmp_path / "store")
    store.get_item_vectors(ids[:1], 8)
    with packed(tmp_path / "store").open("r+b") as file:
        file.seek(11_000 * 8 * 4)  # further than the first read proves
        file.write(b"wrong")
    np.testing.assert_array_equal(store.get_item_vectors(ids, 8), whole)
    np.testing.assert_array_equal(store.item_matrix(8).vectors, whole)


def test_a_matrix_is_never_mapped_from_a_damaged_or_a_missing_file(folder: Path):
    store = ItemStore.open(folder)
    before = store.get_item_vectors(IDS, 8).copy()
    data = bytearray(packed(folder).read_bytes())
    data[4 * 8 * 10] ^= 1
    packed(folder).unlink()
    (packed(folder, "names").parent / "fused_target.8.f32").write_bytes(data)
    np.testing.assert_array_equal(store.item_matrix(8).vectors, before)
    packed(folder).unlink()
    np.testing.assert_array_equal(store.item_matrix(8).vectors, before)


def test_packs_that_nobody_has_opened_for_days_are_removed_but_read_on(folder: Path):
    old = ItemStore.open(folder)
    before = old.get_item_vectors(IDS, 8)
    long_ago = time.time() - (IDLE_DAYS + 1) * 86400
    os.utime(packed(folder).parent, (long_ago, long_ago))
    publish(folder, IDS, seed=1)
    read(folder)
    assert not list(folder.glob("packs/r1-*"))
    np.testing.assert_array_equal(old.get_item_vectors(IDS, 8), before)
    np.testing.assert_array_equal(old.get_item_vectors(IDS, 4), old.item_matrix(4).vectors)


def test_packs_used_longest_ago_are_removed_when_they_fill_the_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    read(folder)
    publish(folder, IDS, seed=1)
    read(folder)
    assert list(folder.glob("packs/r1-*"))
    monkeypatch.setattr(packfiles, "DISK_SHARE", 1 << 62)
    publish(folder, IDS, seed=2)
    read(folder)
    assert [path.name[:3] for path in folder.glob("packs/*/")] == ["r3-"]


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
    with pytest.raises(BadPack, match="r1: the rows of content are of other items"):
        packs.vectors("content", 8)
