"""A tower that reads texts and pictures at once, from the settings to a query."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from assets.run import materialize
from assets.sample import write_sample
from store import ItemStore
from store.cli import main
from store.tables import Tables
from tests.encoders import tiny_vision


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released shop whose pictures a small CLIP of random weights reads, with the texts."""
    folder = tmp_path_factory.mktemp("joint")
    write_sample(folder / "catalogue", items=160, users=250)
    (folder / "clip").mkdir()
    tiny_vision.save_clip(tiny_vision.CLIP, folder / "clip")
    (folder / "itemnest.toml").write_text(
        'store = "store"\n[encoders]\nimage = "none"\n'
        'multimodal = "open_clip:clip/tiny.json@clip/tiny.safetensors"\n'
    )
    outcome = materialize(folder / "itemnest.toml")
    assert outcome.succeeded, outcome.failures
    assert outcome.assets["multimodal_vectors"]["encoded"] > 150
    return folder


def test_every_item_with_a_text_or_a_picture_has_a_joint_vector(folder: Path) -> None:
    tables = Tables(folder / "store")
    items = tables.read("items", columns=["item_id", "text", "image"]).to_pylist()
    vectors = tables.read("multimodal_vectors")
    assert sorted(vectors["item_id"].to_pylist()) == sorted(
        row["item_id"] for row in items if row["text"] or row["image"]
    )
    assert any(row["image"] is None for row in items)
    assert len(set(vectors["encoder"].to_pylist())) == 1


def test_the_release_remembers_the_joint_tower(folder: Path) -> None:
    used = ItemStore.open(folder / "store").release.description["encoders"]
    assert set(used) == {"text", "multimodal"}
    assert used["multimodal"]["choice"]["tower"].startswith("open_clip:")


def test_a_picture_is_searched_for_through_the_joint_tower(folder: Path) -> None:
    store = ItemStore.open(folder / "store")
    items = Tables(folder / "store").read("items", columns=["item_id", "text", "image"])
    row = next(r for r in items.to_pylist() if r["text"] and r["image"])
    found = store.search(image=row["image"], k=5)
    assert len(found) == 5
    assert np.isfinite(found["score"].to_numpy()).all()
    by_text = store.search(text=row["text"], k=10, view="content")
    assert row["item_id"] in by_text["item_id"].to_pylist()


def test_the_towers_are_listed_with_what_is_missing_of_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["encoders"]) == 0
    listed = {row["tower"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert listed["minilm-l6"]["here"]
    assert listed["minilm-l6"]["missing"] == ""
    absent = [row for row in listed.values() if not row["here"]]
    assert absent
    for row in absent:
        assert re.search("hf download|pip install", row["missing"]), row
        assert row["megabytes"] > 0
        assert row["licence"]
