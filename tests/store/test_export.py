"""Rows for trainers, files in three forms, and whether those still are what was released."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store import ItemStore, UnknownIds, UnknownRelease, cli
from store.errors import BadIds
from store.export import check, export
from tests.store.conftest import IDS
from tests.store.shelf import publish

PLAIN = [f"A{number}" for number in range(20)]


@pytest.fixture
def plain(tmp_path: Path) -> ItemStore:
    publish(tmp_path / "plain", PLAIN)
    return ItemStore.open(tmp_path / "plain")


def test_rows_of_ids_point_at_their_vectors(store: ItemStore) -> None:
    asked = ["id 3", 7, "id 3"]
    for pad_row in (False, True):
        matrix = store.item_matrix(8, pad_row=pad_row)
        rows = matrix.index_of(asked)
        assert rows.dtype == np.int64
        np.testing.assert_array_equal(matrix.vectors[rows], store.get_item_vectors(asked, 8))
        assert [matrix.rows[item] for item in IDS] == matrix.index_of(pa.array(IDS)).tolist()


def test_unknown_ids_have_the_out_of_vocabulary_row_or_are_refused(store: ItemStore) -> None:
    with_row = store.item_matrix(8, pad_row=True, oov_row=True)
    assert with_row.index_of(["nope", "id 1"]).tolist() == [len(IDS) + 1, with_row.rows["id 1"]]
    with pytest.raises(UnknownIds, match="'nope'"):
        store.item_matrix(8, pad_row=True).index_of(["id 1", "nope"])


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_padding_and_unknown_rows_are_written_where_they_are_asked_for(
    store: ItemStore, tmp_path: Path, form: str
) -> None:
    manifest = export(store, tmp_path / "out", dim=8, form=form, pad_row=True, oov_row=True)
    if form == "npy":
        ids = json.loads((tmp_path / "out" / "ids.json").read_text())
    else:
        ids = pq.read_table(tmp_path / "out" / "vectors.parquet")["item_id"].to_pylist()
    assert (ids[0], ids[1:-1], ids[-1]) == (None, store.item_matrix(8).ids, None)
    assert (manifest["items"], manifest["pad_row"], manifest["oov_row"]) == (len(IDS), True, True)


def test_the_recbole_file_holds_every_vector_exactly(plain: ItemStore, tmp_path: Path) -> None:
    manifest = export(plain, tmp_path / "shop", dim=8, form="recbole")
    head, *lines = (tmp_path / "shop" / "shop.itememb").read_text().splitlines()
    assert head.split("\t") == ["iid:token", "item_emb:float_seq"]
    tokens, values = zip(*(line.split("\t") for line in lines), strict=True)
    vectors = np.array([list(map(float, row.split(" "))) for row in values], np.float32)
    np.testing.assert_array_equal(vectors, plain.get_item_vectors(list(tokens), 8))
    assert sorted(tokens) == sorted(PLAIN)
    assert list(manifest["files"]) == ["shop.itememb"]


@pytest.mark.parametrize("bad", ["a b", "a\tb", "a\nb", "NA", 'a"b'])
def test_ids_that_recbole_would_misread_are_named(tmp_path: Path, bad: str) -> None:
    publish(tmp_path / "store", [*PLAIN, bad])
    with pytest.raises(BadIds) as refused:
        export(ItemStore.open(tmp_path / "store"), tmp_path / "out", form="recbole")
    assert repr(bad) in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_recbole_pads_by_itself(plain: ItemStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="RecBole makes its padding row itself"):
        export(plain, tmp_path / "out", form="recbole", pad_row=True)


@pytest.mark.parametrize("form", ["npy", "parquet", "recbole"])
def test_an_export_is_known_as_its_releases_also_after_newer_ones(
    plain: ItemStore, tmp_path: Path, form: str
) -> None:
    manifest = export(plain, tmp_path / "out", dim=4, view="content", form=form)
    publish(tmp_path / "plain", [*PLAIN, "later"], seed=3)
    assert check(ItemStore.open(tmp_path / "plain"), tmp_path / "out") == manifest


def test_a_changed_file_of_an_export_is_named(plain: ItemStore, tmp_path: Path) -> None:
    export(plain, tmp_path / "out", dim=4)
    file = tmp_path / "out" / "vectors.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"vectors\.npy is not as it was written"):
        check(plain, tmp_path / "out")
    file.unlink()
    with pytest.raises(ValueError, match=r"vectors\.npy is not as it was written"):
        check(plain, tmp_path / "out")


def test_an_export_of_another_store_is_told_from_this_ones(
    plain: ItemStore, tmp_path: Path
) -> None:
    export(plain, tmp_path / "out", dim=4)
    publish(tmp_path / "twin", PLAIN, seed=5)
    with pytest.raises(ValueError, match="the release has another content"):
        check(ItemStore.open(tmp_path / "twin"), tmp_path / "out")
    publish(tmp_path / "turned", PLAIN, basis_id="turned")
    with pytest.raises(ValueError, match="the release has another basis_id"):
        check(ItemStore.open(tmp_path / "turned"), tmp_path / "out")


def test_an_export_of_a_release_that_is_gone_cannot_be_proven(
    plain: ItemStore, tmp_path: Path
) -> None:
    export(plain, tmp_path / "out", dim=4)
    file = tmp_path / "out" / "manifest.json"
    file.write_text(file.read_text().replace('"r1"', '"r9"'))
    with pytest.raises(UnknownRelease, match="r9"):
        check(plain, tmp_path / "out")
    with pytest.raises(ValueError, match="holds no export"):
        check(plain, tmp_path / "plain")


def test_the_command_checks_an_export(plain: ItemStore, tmp_path: Path, capsys) -> None:
    argv = ["export", str(tmp_path / "out"), "--store", str(tmp_path / "plain")]
    assert cli.main([*argv, "--format", "recbole", "--dim", "4"]) == 0
    assert cli.main([*argv, "--check"]) == 0
    with (tmp_path / "out" / "out.itememb").open("a") as file:
        file.write("A99\t1 0 0 0\n")
    assert cli.main([*argv, "--check"]) == 1
    assert "out.itememb is not as it was written" in capsys.readouterr().err
