"""Items added and removed beside the catalogue: at once, in the released space, without a run."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alignment import choose
from assets import settle
from assets.add import add, remove
from assets.lake import open_lake
from assets.run import Outcome, materialize
from assets.sample import write_sample
from assets.settings import Settings, load, write_default
from assets.settle import ratio
from assets.stored import load_space, space_of
from store import ItemStore, UnknownIds
from store.tables import Tables

TEAPOT = {"item_id": "NEW-1", "title": "Blue ceramic teapot", "glaze": "celadon"}
LAMP = {"item_id": "NEW-2", "title": "Green wool lamp"}


@pytest.fixture
def copy(shop: Path, tmp_path: Path) -> Path:
    """The shop in a folder of its own, free to be changed."""
    shutil.copytree(shop, tmp_path / "shop")
    return tmp_path / "shop"


def put(folder: Path, *items: dict[str, str]) -> Path:
    file = folder / "new.jsonl"
    file.write_text("".join(json.dumps(item) + "\n" for item in items))
    return file


def settings(folder: Path) -> Settings:
    return load(folder / "itemnest.toml")


@pytest.fixture(scope="module")
def rebuilt(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Outcome]:
    """A shop with the teapot added, run again without one item and with one event more."""
    folder = tmp_path_factory.mktemp("rebuilt") / "shop"
    shutil.copytree(shop, folder)
    add(settings(folder), put(folder, TEAPOT))
    catalogue = settings(folder).catalogue
    (items,), (log,) = catalogue.glob("items.*"), catalogue.glob("interactions.*")
    lines = items.read_text().splitlines()
    known = ItemStore.open(folder / "store").item_matrix().ids
    gone = next(
        json.loads(line)["item_id"] for line in lines if json.loads(line)["item_id"] in known
    )
    items.write_text("\n".join(line for line in lines if f'"{gone}"' not in line) + "\n")
    one_event_more(log)
    return folder, gone, materialize(folder / "itemnest.toml")


def one_event_more(log: Path) -> None:
    """Repeat the first event of a compressed CSV file."""
    events = gzip.decompress(log.read_bytes())
    log.write_bytes(gzip.compress(events + events.splitlines()[1] + b"\n"))


@pytest.fixture(scope="module")
def relogged(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> ItemStore:
    """A shop whose added items were changed, the teapot there and back, then run on a new log."""
    folder = tmp_path_factory.mktemp("relogged") / "shop"
    shutil.copytree(shop, folder)
    picture = next(path for path in (folder / "catalogue").rglob("*.jpg"))
    shutil.copy(picture, folder / "lamp.jpg")
    add(settings(folder), put(folder, TEAPOT, LAMP | {"image_path": "lamp.jpg"}))
    add(settings(folder), put(folder, TEAPOT | {"title": "A red tent"}, LAMP))
    assert add(settings(folder), put(folder, TEAPOT)).encoded["text"] == 0
    one_event_more(next((folder / "catalogue").glob("interactions.*")))
    outcome = materialize(folder / "itemnest.toml")
    assert outcome.succeeded, outcome.failures
    assert outcome.assets["text_vectors"]["what"] == "nothing to encode"
    assert outcome.assets["item_vectors"]["what"] == "applied"
    return ItemStore.open(folder / "store")


def test_an_added_item_is_readable_at_once_in_the_released_space(copy: Path) -> None:
    before = ItemStore.open(copy / "store")
    done = add(settings(copy), put(copy, TEAPOT))
    assert done.encoded == {"text": 1, "image": 0, "multimodal": 0}
    store = ItemStore.open(copy / "store")
    assert done.release == store.release.name == "r2"
    assert store.release.space_id == before.release.space_id
    assert store.release.basis_id == before.release.basis_id
    assert store.release.refresh_id != before.release.refresh_id
    assert store.release.quality["carried_from"] == "r1"
    assert store.changes(since="r1").added == ["NEW-1"]
    near = store.search(text="Blue ceramic teapot", k=1)["item_id"].to_pylist()
    assert near == ["NEW-1"]
    glazed = store.sql("SELECT item_id FROM items WHERE glaze = 'celadon'")
    assert glazed["item_id"].to_pylist() == ["NEW-1"]
    with pytest.raises(UnknownIds):
        before.get_item_vectors(["NEW-1"])


def test_an_added_item_can_be_changed_and_the_same_file_again_changes_nothing(copy: Path) -> None:
    add(settings(copy), put(copy, TEAPOT, LAMP))
    again = add(settings(copy), put(copy, TEAPOT, LAMP))
    assert (again.release, again.items) == ("r2", 0)
    changed = add(settings(copy), put(copy, TEAPOT, LAMP | {"title": "A red tent"}))
    assert (changed.release, changed.items, changed.encoded["text"]) == ("r3", 1, 1)
    assert ItemStore.open(copy / "store").changes(since="r2").changed == ["NEW-2"]


def test_the_run_after_an_addition_finds_it_done(copy: Path) -> None:
    add(settings(copy), put(copy, TEAPOT))
    outcome = materialize(copy / "itemnest.toml")
    assert outcome.succeeded, outcome.failures
    for asset in ("collaborative_vectors", "item_space", "item_vectors", "quality"):
        assert outcome.assets[asset]["what"] == "unchanged"
    assert ItemStore.open(copy / "store").release.name == "r2"


def test_a_rebuild_encodes_nothing_and_gives_the_added_item_the_same_vectors(
    rebuilt: tuple[Path, str, Outcome],
) -> None:
    folder, _, outcome = rebuilt
    assert outcome.succeeded, outcome.failures
    assert outcome.assets["text_vectors"]["encoded"] == 0
    after, then = (ItemStore.open(folder / "store", release=name) for name in ("r3", "r2"))
    assert after.release.space_id == then.release.space_id
    for view in ("content", "aligned", "fused", "collaborative"):
        now = after.get_item_vectors(["NEW-1"], view=view)
        np.testing.assert_allclose(now, then.get_item_vectors(["NEW-1"], view=view), atol=1e-4)


def test_an_item_that_left_the_catalogue_is_unknown_from_the_next_release_on(
    rebuilt: tuple[Path, str, Outcome],
) -> None:
    folder, gone, _ = rebuilt
    store = ItemStore.open(folder / "store")
    with pytest.raises(UnknownIds, match="r3"):
        store.get_item_vectors([gone])
    assert store.changes(since="r2").removed == [gone]
    assert store.at(release="r2").lookup([gone]).found.all()


def test_a_run_gives_a_changed_item_the_vector_of_the_text_that_it_has(
    relogged: ItemStore,
) -> None:
    texts = {name: relogged.at(release=name) for name in ("r3", "r4", "r5")}
    tent, teapot, run = (
        store.get_item_vectors(["NEW-1"], view="content") for store in texts.values()
    )
    np.testing.assert_allclose(run, teapot, atol=1e-4)
    assert float((run * tent).sum()) < 0.9


def test_a_run_gives_an_item_that_lost_its_picture_no_picture(relogged: ItemStore) -> None:
    query = "SELECT has_image FROM item_vectors WHERE item_id = 'NEW-2'"
    had = [relogged.at(release=name).sql(query)["has_image"][0].as_py() for name in ("r2", "r5")]
    assert had == [True, False]


def test_a_removed_item_is_unknown_while_earlier_releases_keep_it(copy: Path) -> None:
    add(settings(copy), put(copy, TEAPOT, LAMP))
    assert remove(settings(copy), ["NEW-1"]).release == "r3"
    store = ItemStore.open(copy / "store")
    assert store.lookup(["NEW-1", "NEW-2"]).found.tolist() == [False, True]
    assert store.at(release="r2").lookup(["NEW-1"]).found.all()
    assert not store.sql("SELECT 1 FROM items WHERE item_id = 'NEW-1'").num_rows
    assert not store.sql("SELECT 1 FROM text_vectors WHERE item_id = 'NEW-1'").num_rows


def test_only_items_that_were_added_can_be_removed(copy: Path) -> None:
    add(settings(copy), put(copy, TEAPOT))
    known = next(item for item in ItemStore.open(copy / "store").item_matrix().ids if item)
    with pytest.raises(ValueError, match="take them out of its items file"):
        remove(settings(copy), ["NEW-1", known])
    with pytest.raises(UnknownIds, match="NEW-9"):
        remove(settings(copy), ["NEW-1", "NEW-9"])
    assert ItemStore.open(copy / "store").lookup(["NEW-1"]).found.all()


def test_an_addition_starts_from_the_visible_release_whatever_was_left_behind(copy: Path) -> None:
    released = ItemStore.open(copy / "store").item_matrix()
    tables = Tables(copy / "store")
    for name in ("items", "item_vectors", "text_vectors"):  # a run that was killed half way
        tables.replace(name, tables.read(name).slice(0, 9))
    add(settings(copy), put(copy, TEAPOT))
    store = ItemStore.open(copy / "store")
    assert sorted(store.item_matrix().ids) == sorted([*released.ids, "NEW-1"])
    np.testing.assert_array_equal(store.get_item_vectors(released.ids), released.vectors)
    shown = store.sql("SELECT count(DISTINCT item_id) AS n FROM text_vectors")["n"][0].as_py()
    old = store.at(release="r1").sql("SELECT count(DISTINCT item_id) AS n FROM text_vectors")
    assert shown == old["n"][0].as_py() + 1


def killed_before_publishing(folder: Path) -> None:
    """Add the teapot, then take back the one write that makes it visible."""
    tables = Tables(folder / "store")
    before = tables.dataset("releases")
    add(settings(folder), put(folder, TEAPOT))
    before.restore()
    assert not ItemStore.open(folder / "store").lookup(["NEW-1"]).found.any()


def test_an_addition_that_was_killed_is_finished_by_the_next_run(copy: Path) -> None:
    killed_before_publishing(copy)
    outcome = materialize(copy / "itemnest.toml")
    assert outcome.succeeded, outcome.failures
    store = ItemStore.open(copy / "store")
    assert store.lookup(["NEW-1"]).found.all()
    assert store.release.quality["carried_from"] == "r1"


def test_an_addition_that_was_killed_can_be_made_again(copy: Path) -> None:
    killed_before_publishing(copy)
    assert add(settings(copy), put(copy, TEAPOT)).release == "r2"
    assert materialize(copy / "itemnest.toml").succeeded
    assert ItemStore.open(copy / "store").lookup(["NEW-1"]).found.all()


def test_an_addition_that_was_rolled_back_does_not_come_with_the_next(copy: Path) -> None:
    add(settings(copy), put(copy, TEAPOT))
    ItemStore.open(copy / "store").rollback("r1")
    add(settings(copy), put(copy, LAMP))
    found = ItemStore.open(copy / "store").lookup(["NEW-1", "NEW-2"]).found
    assert found.tolist() == [False, True]


def test_an_item_that_a_rollback_hides_can_be_removed_and_stays_out(copy: Path) -> None:
    add(settings(copy), put(copy, TEAPOT))
    ItemStore.open(copy / "store").rollback("r1")
    tables = Tables(copy / "store")
    before = tables.version("items")
    with pytest.raises(UnknownIds, match="NEW-9"):
        remove(settings(copy), ["NEW-1", "NEW-9"])
    assert tables.version("items") == before
    assert remove(settings(copy), ["NEW-1"]).release == "r1"
    assert tables.count("items", where="item_id = 'NEW-1'") == 0
    outcome = materialize(copy / "itemnest.toml")
    assert outcome.succeeded, outcome.failures
    log = [release.name for release in ItemStore.open(copy / "store").releases()]
    assert log == ["r1", "r2", "r1"]


def test_a_rollback_outlives_the_next_run_over_an_unchanged_catalogue(copy: Path) -> None:
    add(settings(copy), put(copy, TEAPOT))
    ItemStore.open(copy / "store").rollback("r1")
    assert materialize(copy / "itemnest.toml").succeeded
    assert ItemStore.open(copy / "store").release.name == "r1"


def test_files_of_which_nothing_can_be_added_are_refused_with_the_reason(copy: Path) -> None:
    known = Tables(copy / "store").read("items", columns=["item_id"])["item_id"][0].as_py()
    with pytest.raises(ValueError, match="in_catalogue"):
        add(settings(copy), put(copy, {"item_id": known, "title": "x"}))


def test_a_file_that_adds_nothing_leaves_nothing_for_the_next_run_to_release(copy: Path) -> None:
    add(settings(copy), put(copy, TEAPOT))
    tables = Tables(copy / "store")
    before = tables.read("rejected_items")
    assert add(settings(copy), put(copy, TEAPOT, {"title": "no id"})).release == "r2"
    with pytest.raises(ValueError, match="missing_item_id"):
        add(settings(copy), put(copy, {"title": "no id"}))
    assert tables.read("rejected_items").equals(before)


def test_nothing_is_added_to_a_release_of_other_settings(copy: Path) -> None:
    file = copy / "itemnest.toml"
    file.write_text(file.read_text().replace("seed = 0", "seed = 1"))
    with pytest.raises(ValueError, match="itemnest materialize"):
        add(settings(copy), put(copy, TEAPOT))


def test_adding_does_not_import_dagster() -> None:
    look = "import assets.add, sys; print('dagster' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_a_shop_with_a_channel_of_its_own_leaves_production_alone(copy: Path) -> None:
    file = copy / "itemnest.toml"
    text = file.read_text()
    file.write_text(text.replace('channel = "production"', 'channel = "staging"'))
    assert file.read_text() != text
    add(settings(copy), put(copy, TEAPOT))
    assert "NEW-1" not in ItemStore.open(copy / "store").item_matrix().ids
    staged = ItemStore.open(copy / "store", channel="staging")
    assert "NEW-1" in staged.item_matrix().ids
    assert staged.release.space_id == ItemStore.open(copy / "store").release.space_id


def test_a_channel_that_was_given_the_release_gets_no_other_for_the_same_catalogue(
    copy: Path,
) -> None:
    ItemStore.open(copy / "store").promote("r1", "staging")
    file = copy / "itemnest.toml"
    text = file.read_text()
    file.write_text(text.replace('channel = "production"', 'channel = "staging"'))
    assert file.read_text() != text
    outcome = materialize(file)
    assert outcome.succeeded, outcome.failures
    assert outcome.assets["release"]["what"] == "nothing changed, no new release"
    assert ItemStore.open(copy / "store", channel="staging").release.name == "r1"


def test_a_kept_space_tells_what_old_users_find_among_new_vectors(
    shop: Path, relogged: ItemStore
) -> None:
    assert ItemStore.open(shop / "store").release.description["cross_version"] == []
    matrix = relogged.release.description["cross_version"]
    assert [row["dim"] for row in matrix] == [32, 64, 128, 256]
    for row in matrix:
        assert row["old x old"] > 0.1
        assert row["ratio"] == row["old x new"] / row["old x old"] > 0.95


def test_a_space_of_a_shop_that_opened_empty_gives_way_to_one_of_its_log(tmp_path: Path) -> None:
    """Nothing was there to keep it by: no item had events, and content alone made its vectors."""
    write_sample(tmp_path / "catalogue", items=80, users=150)
    file = write_default(tmp_path / "itemnest.toml", store="store")
    file.write_text(file.read_text().replace('"efficientnet-lite0"', '"none"'))
    log = next((tmp_path / "catalogue").glob("interactions.*"))
    events = gzip.decompress(log.read_bytes())
    log.write_bytes(gzip.compress(events.splitlines()[0] + b"\n"))
    empty = materialize(file)
    assert empty.succeeded, empty.failures
    recipe = empty.assets["collaborative_vectors"]["recipe"]
    first = ItemStore.open(tmp_path / "store").release
    assert first.description["space"]["dial.share"] == 1
    log.write_bytes(gzip.compress(events))
    outcome = materialize(file)
    assert outcome.succeeded, outcome.failures
    assert outcome.assets["item_space"]["what"].startswith("fitted: more than twice the items")
    assert outcome.assets["collaborative_vectors"]["recipe"] != recipe
    now = ItemStore.open(tmp_path / "store").release
    assert now.space_id != first.space_id
    assert now.description["space"]["dial.share"] < 1


def test_a_space_that_serves_its_users_no_more_gives_way_to_a_new_one(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No recall across versions is enough here; what is stored is about the new vectors."""
    asked: list[float] = []
    monkeypatch.setattr(settle, "KEPT", 2.0)
    monkeypatch.setattr(settle, "ratio", lambda rows: asked.append(ratio(rows)) or ratio(rows))
    first = ItemStore.open(copy / "store").release
    one_event_more(next((copy / "catalogue").glob("interactions.*")))
    outcome = materialize(copy / "itemnest.toml")
    assert outcome.succeeded, outcome.failures
    survived = asked[0]
    assert survived > 0.95
    what = f"fitted: the released space keeps {survived:.3f} of the recall"
    assert str(outcome.assets["item_space"]["what"]).startswith(what)
    release = ItemStore.open(copy / "store").release
    assert release.space_id != first.space_id
    matrix = release.description["cross_version"]
    assert [row["dim"] for row in matrix] == [32, 64, 128, 256]
    assert all(row["old x old"] > 0.1 and row["new x new"] > 0.1 for row in matrix)
    assert ratio(matrix) != survived


def test_a_kept_space_reads_a_grown_log_as_fits_it(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ItemStore.open(copy / "store").release
    other = next(r for r in choose.RECENCIES if r != first.description["space"]["recipe.recency"])
    monkeypatch.setattr(choose, "RECENCIES", (other,))
    one_event_more(next((copy / "catalogue").glob("interactions.*")))
    outcome = materialize(copy / "itemnest.toml")
    assert outcome.succeeded, outcome.failures
    release = ItemStore.open(copy / "store").release
    assert release.space_id == first.space_id
    assert release.description["space"]["recipe.recency"] == other
    with open_lake(settings(copy)) as lake:
        assert load_space(lake).space.description() == release.description["space"]
        assert space_of(lake, first).space.description() == first.description["space"]
