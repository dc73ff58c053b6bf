"""The whole graph on a small generated shop: what is released, and what a second run does."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alignment.collaborative import Recipe
from alignment.fit import fit
from alignment.interactions import leave_last_out
from assets.lake import open_lake
from assets.run import Outcome, materialize
from assets.sample import planted
from assets.sequences import load_sequences
from assets.settings import load
from assets.stored import load_collaborative, load_content, load_residuals, load_space
from store import ItemStore
from store.tables import Tables

ASSETS = {
    "items",
    "interactions",
    "item_descriptions",
    "text_vectors",
    "image_vectors",
    "multimodal_vectors",
    "collaborative_vectors",
    "item_space",
    "item_vectors",
    "quality",
    "release",
}

HOLD = """
import sys, time
from store.tables import Tables
with Tables(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def copy(shop: Path, tmp_path: Path) -> Path:
    """The shop in a folder of its own, free to be changed."""
    shutil.copytree(shop, tmp_path / "shop")
    return tmp_path / "shop"


def test_the_release_holds_every_item_once_with_unit_rows_at_every_dim(shop: Path) -> None:
    store = ItemStore.open(shop / "store")
    ids = Tables(shop / "store").read("items", columns=["item_id"])["item_id"].to_pylist()
    assert len(ids) == len(set(ids)) > 200
    for view in ("content", "aligned", "fused", "collaborative"):
        for dim in (32, 64, 128, 256):
            rows = store.get_item_vectors(ids, dim=dim, view=view)
            assert rows.shape == (len(ids), dim)
            np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3)


def test_neighbours_share_the_planted_group_far_above_chance(shop: Path) -> None:
    groups = planted(shop / "catalogue")
    store = ItemStore.open(shop / "store")
    ids = [item for item in store.item_matrix(dim=64).ids if item in groups]
    chance = sum(
        (n / len(ids)) ** 2 for n in np.unique([groups[i] for i in ids], return_counts=True)[1]
    )
    hits = total = 0
    for item in ids[::10]:
        found = store.search(item, k=5, dim=128, view="content")["item_id"].to_pylist()
        hits += sum(groups.get(near) == groups[item] for near in found)
        total += len(found)
    assert hits / total > 3 * chance


def test_cold_items_have_aligned_and_fused_vectors_that_differ_from_each_other(shop: Path) -> None:
    tables = Tables(shop / "store")
    rows = tables.read("item_vectors", columns=["item_id", "support"])
    cold = [r["item_id"] for r in rows.to_pylist() if r["support"] == 0]
    assert len(cold) >= 5
    store = ItemStore.open(shop / "store")
    for view in ("aligned", "fused"):
        vectors = store.get_item_vectors(cold, dim=64, view=view)
        assert len(np.unique(vectors.round(4), axis=0)) > len(cold) // 2


def test_every_refused_row_is_recorded_with_its_reason(shop: Path) -> None:
    rejected = Tables(shop / "store").read("rejected_items").to_pylist()
    assert {row["source"] for row in rejected} == {"items", "interactions"}
    assert all(row["reason"] and row["row"] >= 0 for row in rejected)


def test_a_second_run_encodes_nothing_and_makes_no_release(copy: Path) -> None:
    again = materialize(copy / "itemnest.toml")
    assert again.succeeded
    assert set(again.assets) == ASSETS
    assert again.assets["text_vectors"]["encoded"] == 0
    assert again.assets["image_vectors"]["encoded"] == 0
    assert [release.name for release in ItemStore.open(copy / "store").releases()] == ["r1"]


def test_the_same_inputs_give_the_same_space_and_the_same_vectors(
    shop: Path, tmp_path: Path
) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    shutil.copytree(shop / "catalogue", twin / "catalogue")
    shutil.copy(shop / "itemnest.toml", twin)
    assert materialize(twin / "itemnest.toml").succeeded
    one, two = ItemStore.open(shop / "store"), ItemStore.open(twin / "store")
    assert one.release.space_id == two.release.space_id
    np.testing.assert_array_equal(
        one.item_matrix(dim=256).vectors, two.item_matrix(dim=256).vectors
    )


def test_a_catalogue_that_lost_most_items_is_not_released(copy: Path) -> None:
    settings = load(copy / "itemnest.toml")
    file = next(settings.catalogue.glob("items.*"))
    file.write_text("\n".join(file.read_text().splitlines()[:20]) + "\n")
    outcome: Outcome = materialize(copy / "itemnest.toml")
    assert not outcome.succeeded
    assert "is the feed complete?" in " ".join(outcome.failures)
    assert ItemStore.open(copy / "store").release.name == "r1"


def test_the_stored_space_makes_the_vectors_that_its_recall_was_chosen_on(shop: Path) -> None:
    with open_lake(load(shop / "itemnest.toml")) as lake:
        content, split = load_content(lake), leave_last_out(load_sequences(lake))
        recipe = Recipe(**lake.built("collaborative_vectors").metadata["recipe"])
        fitted = fit(content, split, dims=lake.settings.dims, seed=0, recipe=recipe)
        stored, known = load_space(lake), load_collaborative(lake, "train")
        added = load_residuals(lake, "train")
        again = stored.space.learn(content, known, split.train)
    assert fitted.space.space_id == stored.space_id
    np.testing.assert_array_equal(added.target, again.target)
    mine = fitted.space.views(content, known, fitted.residuals)
    theirs = stored.space.views(content, known, added)
    np.testing.assert_array_equal(mine.fused_context, theirs.fused_context)
    np.testing.assert_array_equal(mine.fused_target, theirs.fused_target)


def test_a_catalogue_that_was_meant_to_shrink_is_released_when_the_run_accepts_it(
    copy: Path,
) -> None:
    file = next(load(copy / "itemnest.toml").catalogue.glob("items.*"))
    file.write_text("\n".join(file.read_text().splitlines()[:80]) + "\n")
    accepted = ["catalogue_is_whole", "holds_against_the_last_release", "beats_popularity"]
    outcome = materialize(copy / "itemnest.toml", accept=accepted)
    assert outcome.succeeded, outcome.failures
    store = ItemStore.open(copy / "store")
    assert store.release.name == "r2"
    assert store.release.description["accepted"] == sorted(accepted)
    assert len(store.item_matrix(dim=32).ids) < 81


def test_a_run_without_a_log_ends_before_anything_is_read(copy: Path) -> None:
    next((copy / "catalogue").glob("interactions.*")).unlink()
    file = next((copy / "catalogue").glob("items.*"))
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:200]))
    before = Tables(copy / "store").version("items")
    outcome = materialize(copy / "itemnest.toml")
    assert not outcome.succeeded
    assert "holds no interactions file" in " ".join(outcome.failures)
    assert Tables(copy / "store").version("items") == before


def test_a_run_beside_another_says_who_holds_the_store(copy: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(copy / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        try:
            outcome = materialize(copy / "itemnest.toml")
        finally:
            holder.kill()
    assert not outcome.succeeded
    assert str(holder.pid) in " ".join(outcome.failures)


def test_text_and_picture_queries_find_what_they_describe(shop: Path) -> None:
    store = ItemStore.open(shop / "store")
    items = Tables(shop / "store").read("items", columns=["item_id", "text", "image"]).to_pylist()
    whole = [row for row in items if row["text"] and row["image"]][:5]
    for row in whole:
        by_text = store.search(text=row["text"], k=10)["item_id"].to_pylist()
        assert row["item_id"] in by_text
        assert len(store.search(text=row["text"], k=20, view="fused")) == 20
        by_image = store.search(image=row["image"], k=10)["item_id"].to_pylist()
        assert len(by_image) == 10
