import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from store import ItemStore, NoRelease, itemstore
from tests.store.shelf import IDS_OF_TURNED, publish, publish_turned, turned

IDS = [f"i{number}" for number in range(50)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    publish(tmp_path / "store", IDS)
    return tmp_path / "store"


def eventually(true: Callable[[], bool]) -> bool:
    """Look again and again, for ten seconds, which a busy machine may need for one."""
    deadline = time.monotonic() + 10
    while not true() and time.monotonic() < deadline:
        time.sleep(0.005)
    return true()


def republish(folder: Path, seed: int, **options) -> str:
    store = ItemStore.open(folder)
    matrix = np.random.default_rng(seed).standard_normal((len(IDS), 16))
    return store.publish_vectors(IDS, matrix, dims=[4, 8, 16], **options).name


def test_a_release_of_another_channel_is_not_seen_until_it_is_promoted(folder: Path):
    staged = republish(folder, 1, channel="staging")
    assert staged == "r2"
    assert ItemStore.open(folder).release.name == "r1"
    assert ItemStore.open(folder, channel="staging").release.name == "r2"
    moved = ItemStore.open(folder).promote("r2")
    assert (moved.kind, moved.channel) == ("promote", "production")
    assert ItemStore.open(folder).release.name == "r2"


def test_a_rollback_moves_its_own_channel_alone(folder: Path):
    republish(folder, 1)
    store = ItemStore.open(folder)
    store.promote("r2", "staging")
    store.rollback("r1")
    assert ItemStore.open(folder).release.name == "r1"
    assert ItemStore.open(folder, channel="staging").release.name == "r2"
    assert [row.kind for row in store.releases()] == ["publish", "publish", "promote", "rollback"]


def test_a_channel_that_is_not_there_is_refused_with_those_that_are(folder: Path):
    with pytest.raises(NoRelease, match="no channel 'live': choose one of 'production'"):
        ItemStore.open(folder, channel="live")
    with pytest.raises(ValueError, match="either release= or channel="):
        ItemStore.open(folder, release="r1", channel="production")


def test_a_moment_is_answered_for_the_stores_own_channel(folder: Path):
    store = ItemStore.open(folder)
    store.promote("r1", "staging")
    republish(folder, 1)
    last = store.releases()[-1].created_at
    assert store.at(as_of=last).release.name == "r2"
    assert ItemStore.open(folder, channel="staging").at(as_of=last).release.name == "r1"


def test_a_reader_of_a_channel_moves_with_it(folder: Path):
    republish(folder, 1)
    store = ItemStore.open(folder, channel="production")
    first = store.get_item_vectors(IDS, 8)
    republish(folder, 2)
    assert eventually(lambda: store.release.name == "r3")
    assert not np.array_equal(store.get_item_vectors(IDS, 8), first)
    np.testing.assert_array_equal(
        store.get_item_vectors(IDS, 8), ItemStore.open(folder).get_item_vectors(IDS, 8)
    )


def test_a_pinned_reader_does_not_move(folder: Path):
    store, follower = ItemStore.open(folder), ItemStore.open(folder, channel="production")
    publish(folder, IDS, seed=1)
    assert eventually(lambda: follower.release.name == "r2")
    assert store.release.name == "r1"


def test_a_reader_stays_in_its_basis_until_it_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture
):
    store = ItemStore.open(folder, channel="production")
    before = store.get_item_vectors(IDS, 8)
    publish(folder, IDS, seed=1, basis_id="another")
    assert eventually(lambda: "r2 is another basis than r1" in caplog.text)
    np.testing.assert_array_equal(store.get_item_vectors(IDS, 8), before)
    assert store.refresh().name == "r2"
    publish(folder, IDS, seed=2, basis_id="another")
    assert eventually(lambda: store.release.name == "r3")


def test_a_reader_that_was_moved_meanwhile_is_not_moved_back(folder: Path):
    store = ItemStore.open(folder)
    old = publish(folder, IDS, seed=1)
    newest = publish(folder, IDS, seed=2)
    packs_before = store._packs

    class Slow(type(packs_before)):
        def prepare(self, like) -> None:
            super().prepare(like)
            store.refresh()

    original, itemstore.Packs = itemstore.Packs, Slow
    try:
        store._prepare(old)
    finally:
        itemstore.Packs = original
    assert store.release.name == newest.name


def test_a_reader_that_publishes_elsewhere_stays_where_it_is(folder: Path):
    store = ItemStore.open(folder)
    matrix = np.random.default_rng(5).standard_normal((len(IDS), 16))
    staged = store.publish_vectors(IDS, matrix, dims=[4, 8, 16], channel="staging")
    assert (staged.name, store.release.name) == ("r2", "r1")
    assert staged.tables["items"] == store.release.tables["items"]


def test_no_answer_mixes_two_releases_while_the_channel_moves(tmp_path: Path):
    names: list[str] = []

    def publish_some() -> None:
        store = ItemStore.create(tmp_path / "store")
        for number in range(1, 9):
            publish_turned(store, number)
            names.append(store.release.name)

    publisher = threading.Thread(target=publish_some)
    publisher.start()
    assert eventually(lambda: len(names) > 0)
    store = ItemStore.open(tmp_path / "store", channel="production")
    seen = set()
    while publisher.is_alive() or store.release.name != "r8":
        answer = store.get_item_vectors(IDS_OF_TURNED, 2)
        number = next(n for n in range(1, 9) if np.allclose(answer[0], turned(n)))
        seen.add(number)
        np.testing.assert_allclose(answer, np.tile(turned(number), (300, 1)), atol=1e-6)
    assert len(seen) > 1
    publisher.join()


@pytest.mark.filterwarnings("ignore")  # Lance, LanceDB and Python each warn of any fork
def test_a_forked_reader_moves_too(folder: Path):
    store = ItemStore.open(folder, channel="production")
    store.get_item_vectors(IDS, 8)
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(told, b".")
        os._exit(0 if eventually(lambda: store.release.name == "r2") else 1)
    os.read(ready, 1)
    publish(folder, IDS, seed=1)
    assert os.waitpid(child, 0)[1] == 0
    os.close(ready)
    os.close(told)


def test_a_reader_travels_with_its_channel(folder: Path):
    store = pickle.loads(pickle.dumps(ItemStore.open(folder, channel="production")))
    publish(folder, IDS, seed=1)
    assert eventually(lambda: store.release.name == "r2")


def test_nobody_watches_for_a_reader_that_is_gone(folder: Path):
    def watching() -> int:
        return sum(thread.name == "itemnest production" for thread in threading.enumerate())

    assert eventually(lambda: watching() == 0)
    store = ItemStore.open(folder, channel="production")
    assert watching() == 1
    del store
    assert eventually(lambda: watching() == 0)


def test_two_tables_of_different_widths_are_read_by_the_same_ids(folder: Path):
    """Attention narrow, representation wide, as two spaces of one store (DARE)."""
    rng = np.random.default_rng(0)
    tables = {"attention": rng.standard_normal((50, 16)), "representation": np.eye(50, 64)}
    for name, rows in tables.items():
        store = ItemStore.open(folder)
        store.publish_vectors(IDS, rows, space=name, channel=name)
    read = {name: ItemStore.open(folder, channel=name) for name in tables}
    asked = ["i7", "i3"]
    assert read["attention"].get_item_vectors(asked).shape == (2, 16)
    wide = read["representation"].get_item_vectors(asked)
    np.testing.assert_allclose(wide, tables["representation"][[7, 3]])
    assert ItemStore.open(folder).release.name == "r1"
