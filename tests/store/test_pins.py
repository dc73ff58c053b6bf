from datetime import timedelta
from pathlib import Path

import pytest

from store import ItemStore, UnknownPin, UnknownRelease, releases
from store.tables import Tables
from tests.store.shelf import publish, rows


def tend(folder: Path) -> None:
    """Remove whatever nobody holds, however young."""
    tables = Tables(folder)
    tables.maintain(releases.pinned(tables, keep=1), grace=timedelta(0))


@pytest.fixture
def store(tmp_path: Path) -> ItemStore:
    for seed, ids in enumerate((["a"], ["b", "c"], ["d"], ["e"])):
        publish(tmp_path, ids, seed)
    return ItemStore.open(tmp_path)


def test_a_pinned_release_survives_upkeep_whole_until_it_is_let_go_of(
    store: ItemStore, tmp_path: Path
):
    assert store.pin("ranker", "r2").name == "r2"
    tend(tmp_path)
    tend(tmp_path)
    old = ItemStore.open(tmp_path, release="r2")
    assert (
        Tables(tmp_path)
        .read("item_vectors", version=old.release.tables["item_vectors"])
        .equals(rows(["b", "c"], seed=1).cast(Tables(tmp_path).schema("item_vectors")))
    )
    assert old.sql("SELECT item_id FROM items").to_pydict() == {"item_id": ["b", "c"]}
    for gone in ("r1", "r3"):
        with pytest.raises(UnknownRelease, match=f"{gone} is no longer kept"):
            store.at(release=gone)
    store.unpin("ranker")
    tend(tmp_path)
    with pytest.raises(UnknownRelease, match="r2 is no longer kept"):
        store.at(release="r2")


def test_a_consumer_pins_the_release_that_its_store_is_open_at(store: ItemStore):
    store.at(release="r3").pin("ranker")
    assert store.pins() == {"ranker": "r3"}


def test_a_pin_moves_and_leaves_those_of_other_consumers(store: ItemStore, tmp_path: Path):
    store.pin("ranker", "r1")
    store.pin("mailer", "r1")
    store.pin("ranker", "r2")
    assert store.pins() == {"mailer": "r1", "ranker": "r2"}
    store.unpin("mailer")
    assert ItemStore.open(tmp_path).pins() == {"ranker": "r2"}
    tend(tmp_path)
    with pytest.raises(UnknownRelease, match="r1 is no longer kept"):
        store.at(release="r1")


def test_a_release_that_is_gone_cannot_be_pinned(store: ItemStore, tmp_path: Path):
    tend(tmp_path)
    for gone in ("r1", "r9"):
        with pytest.raises(UnknownRelease, match=gone):
            store.pin("ranker", gone)
    assert store.pins() == {}


def test_letting_go_of_nothing_names_who_holds_something(store: ItemStore):
    with pytest.raises(UnknownPin, match=r"'ranker' pins no release of .*: nobody does"):
        store.unpin("ranker")
    store.pin("mailer", "r1")
    with pytest.raises(UnknownPin, match=r"'ranker' pins no release of .*: 'mailer' does"):
        store.unpin("ranker")


def test_a_pin_has_the_name_of_its_consumer(store: ItemStore):
    with pytest.raises(ValueError, match="a pin carries the name of its consumer"):
        store.pin(" ")


def test_what_every_channel_shows_survives_upkeep(tmp_path: Path):
    for seed, ids in enumerate((["a"], ["b"], ["c"])):
        publish(tmp_path, ids, seed)
    ItemStore.open(tmp_path).promote("r1", "staging")
    tend(tmp_path)
    assert ItemStore.open(tmp_path, channel="staging").lookup(["a"]).found.all()
