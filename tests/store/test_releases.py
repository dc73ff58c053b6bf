import multiprocessing
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from store import (
    BadVectors,
    ItemStore,
    NoRelease,
    SpaceMismatch,
    UnknownDim,
    UnknownRelease,
    UnknownTable,
    UnknownView,
    releases,
)
from store.schema import item_vectors_table
from store.tables import Tables
from tests.store.shelf import draft, items, publish, publish_for_ever, rows, turned, vectors


def names(log: list[releases.Release]) -> list[tuple[str, str]]:
    return [(release.kind, release.name) for release in log]


def test_a_store_without_a_release_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(NoRelease, match=r"holds no release: run `itemnest materialize`, or"):
        ItemStore.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    Tables(tmp_path / "half").replace("item_vectors", rows(["a"]))
    with pytest.raises(NoRelease):
        ItemStore.open(tmp_path / "half")


def test_a_release_of_which_a_table_is_gone_is_shown_to_nobody(tmp_path: Path):
    first = publish(tmp_path, ["a", "b"])
    tables = Tables(tmp_path)
    again = {**first.tables, "items": tables.replace("items", items(["a", "b"]))}
    releases.publish(tables, draft(again))
    tables.maintain(releases.pinned(tables, keep=1), grace=timedelta(0))
    store = ItemStore.open(tmp_path)
    for attempt in (store.rollback, lambda name: store.pin("ranker", name)):
        with pytest.raises(UnknownRelease, match=r"r1 is no longer kept: .*'items'"):
            attempt("r1")
    assert ItemStore.open(tmp_path).release.name == "r2"


def test_a_view_is_named_by_what_can_name_a_file(tmp_path: Path):
    with pytest.raises(BadVectors, match="letters, digits and underscores: 'a/b'"):
        ItemStore.create(tmp_path).publish_vectors(["a"], np.ones((1, 4)), view="a/b")


def test_the_last_release_is_the_visible_one(tmp_path: Path):
    first, second = publish(tmp_path, ["a", "b"]), publish(tmp_path, ["a", "c"])
    assert (first.name, second.name) == ("r1", "r2")
    assert releases.current(Tables(tmp_path)) == second
    assert second.quality == {"recall": 0.5}
    assert second.dims == (4, 8, 16)
    assert second.stamp != first.stamp


def test_an_open_store_stays_at_its_release_until_it_is_refreshed(tmp_path: Path):
    publish(tmp_path, ["a", "b"])
    store = ItemStore.open(tmp_path)
    before = store.get_item_vectors(["a"])
    publish(tmp_path, ["a", "c"], seed=9)
    np.testing.assert_array_equal(store.get_item_vectors(["a"]), before)
    assert store.lookup(["b", "c"]).found.tolist() == [True, False]
    assert store.refresh().name == "r2"
    assert store.lookup(["b", "c"]).found.tolist() == [False, True]


def test_a_rollback_makes_an_old_release_visible_and_the_next_one_gets_a_new_name(tmp_path: Path):
    publish(tmp_path, ["a"])
    publish(tmp_path, ["b"])
    store = ItemStore.open(tmp_path)
    assert store.rollback("r1").name == "r1"
    assert store.lookup(["a", "b"]).found.tolist() == [True, False]
    assert ItemStore.open(tmp_path).release.name == "r1"
    assert store.rollback("r1").event == 3
    publish(tmp_path, ["c"])
    assert names(store.releases()) == [
        ("publish", "r1"),
        ("publish", "r2"),
        ("rollback", "r1"),
        ("publish", "r3"),
    ]


def test_a_moment_is_answered_by_what_was_visible_then(tmp_path: Path):
    first, second = publish(tmp_path, ["a"]), publish(tmp_path, ["b"])
    back = releases.show(Tables(tmp_path), "r1")
    store = ItemStore.open(tmp_path)
    just_before = second.created_at - timedelta(microseconds=1)
    assert store.at(as_of=just_before).release.name == "r1"
    assert store.at(as_of=second.created_at.isoformat()).release.name == "r2"
    assert store.at(as_of=back.created_at.replace(tzinfo=None)).release.event == 3
    too_early = first.created_at - timedelta(days=1)
    with pytest.raises(UnknownRelease, match=r"had no release at .*: the first is of 20"):
        store.at(as_of=too_early)
    with pytest.raises(UnknownRelease, match=r"as_of='yesterday' is not a date: write 2026-"):
        store.at(as_of="yesterday")


def test_an_old_release_can_be_opened_beside_the_visible_one(tmp_path: Path):
    publish(tmp_path, ["a"])
    publish(tmp_path, ["b"])
    store = ItemStore.open(tmp_path)
    old = store.at(release="r1")
    assert (old.release.name, store.release.name) == ("r1", "r2")
    assert old.lookup(["a"]).found.tolist() == [True]
    assert ItemStore.open(tmp_path, release="r1").release == old.release
    with pytest.raises(UnknownRelease, match="has no release 'r7': it has 'r2', 'r1'"):
        store.at(release="r7")
    with pytest.raises(ValueError, match="either release= or as_of="):
        store.at()


def test_a_consumer_stays_on_an_old_space_beside_the_visible_one(tmp_path: Path):
    old, new = "a" * 64, "a" * 9 + "b" * 55
    publish(tmp_path, ["a"], space_id=old)
    publish(tmp_path, ["a", "b"], space_id=old)
    publish(tmp_path, ["c"], space_id=new)
    store = ItemStore.open(tmp_path)
    stays = store.at(space=old)
    assert (stays.release.name, store.release.name) == ("r2", "r3")
    assert stays.lookup(["b", "c"]).found.tolist() == [True, False]
    assert store.at(space=old[:12]).release.name == "r2"
    store.rollback("r1")
    assert store.at(space=old).release.name == "r1"
    for unknown in ("f" * 64, "a" * 7, ""):
        with pytest.raises(UnknownRelease, match=f"no release of the space '{unknown}': it has"):
            store.at(space=unknown)
    with pytest.raises(UnknownRelease, match="several spaces 'aaaaaaaa'"):
        store.at(space="a" * 8)
    with pytest.raises(ValueError, match="either release= or as_of= or space="):
        store.at(space=old, release="r1")


def test_a_space_that_is_no_longer_kept_is_refused(tmp_path: Path):
    publish(tmp_path, ["a"], space_id="a" * 64)
    publish(tmp_path, ["b"], space_id="b" * 64)
    tables = Tables(tmp_path)
    tables.maintain(releases.pinned(tables, keep=1), grace=timedelta(0))
    with pytest.raises(UnknownRelease, match="r1 is no longer kept"):
        ItemStore.open(tmp_path).at(space="a" * 64)


def test_changes_are_the_ids_added_changed_and_removed(tmp_path: Path):
    tables, matrix = Tables(tmp_path), vectors(5)
    columns = ("fused_context", "fused_target", "content")

    def release(ids: str, matrix: np.ndarray) -> None:
        table = item_vectors_table(list(ids), dict.fromkeys(columns, matrix))
        releases.publish(tables, draft({"item_vectors": tables.replace("item_vectors", table)}))

    release("abcde", matrix)
    release("edcfg", np.concatenate([matrix[[4]], vectors(1, 5), matrix[[2, 0, 1]]]))
    store = ItemStore.open(tmp_path)
    found = store.changes(since="r1")
    assert (found.added, found.changed, found.removed) == (["f", "g"], ["d"], ["a", "b"])
    back = store.at(release="r1").changes(since="r2")
    assert (back.added, back.changed, back.removed) == (["a", "b"], ["d"], ["f", "g"])
    same = store.changes(since="r2")
    assert (same.added, same.changed, same.removed) == ([], [], [])


def test_releases_of_different_spaces_are_not_compared(tmp_path: Path):
    publish(tmp_path, ["a"])
    publish(tmp_path, ["a"], space_id="another")
    with pytest.raises(SpaceMismatch, match="r1 and r2 are different spaces"):
        ItemStore.open(tmp_path).changes(since="r1")


def test_a_retained_release_reads_on_after_upkeep_and_another_says_it_is_gone(tmp_path: Path):
    tables = Tables(tmp_path)
    for seed, ids in enumerate((["a"], ["b"], ["c"], ["d"])):
        publish(tmp_path, ids, seed)
    old = ItemStore.open(tmp_path, release="r2")
    old.pin("ranker")
    tables.maintain(releases.pinned(tables, keep=1), grace=timedelta(0))
    assert old.search("b", k=1).num_rows == 0  # the only item, and no answer to itself
    assert old.get_item_vectors(["b"]).shape == (1, 16)
    with pytest.raises(UnknownRelease, match=r"r1 is no longer kept: .* was cleaned up"):
        ItemStore.open(tmp_path, release="r1")
    with pytest.raises(UnknownRelease, match="r3 is no longer kept"):
        releases.show(tables, "r3")
    assert ItemStore.open(tmp_path).release.name == "r4"


def test_what_was_last_built_is_retained(tmp_path: Path):
    tables = Tables(tmp_path)
    publish(tmp_path, ["a"])
    version = tables.replace("item_vectors", rows(["b"]))
    build = {
        "asset": ["item_vectors"],
        "inputs": [""],
        "tables": [f'{{"item_vectors": {version}}}'],
        "metadata": ["{}"],
        "finished_at": [datetime.now(UTC)],
    }
    tables.upsert("builds", pa.table(build))
    assert version in releases.pinned(tables, keep=1)["item_vectors"]


def broken(column: str, value: float, rows: slice = slice(2, 3)) -> pa.Table:
    matrices = {name: vectors(5) for name in ("fused_context", "fused_target", "content")}
    matrices[column][rows, :4] = value
    return item_vectors_table(list("abcde"), matrices)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (broken("content", 0.0), r"content: 1 rows are not finite unit vectors .*: 'c'"),
        (broken("fused_target", 3.0), r"fused_target: 1 rows are not finite unit vectors"),
        (broken("fused_context", 0.0, slice(0, 5)), r"5 rows .*: 'a', 'b', 'c', 'd', 'e'"),
        (rows(["a"]).drop(["content"]), "no column 'content': it has 'item_id'"),
        (rows([]), "0 rows, 0 different ids"),
    ],
)
def test_vectors_that_cannot_be_served_are_not_published(
    tmp_path: Path, table: pa.Table, complaint: str
):
    tables = Tables(tmp_path)
    pins = {"item_vectors": tables.replace("item_vectors", table)}
    with pytest.raises(BadVectors, match=complaint):
        releases.publish(tables, draft(pins))
    assert releases.current(tables) is None


@pytest.mark.parametrize(
    ("dims", "complaint"),
    [([4, 32], r"dims \[4, 32\] must ascend within 1..16"), ([], "dims"), ([8, 4], "dims")],
)
def test_dims_that_do_not_fit_are_not_published(tmp_path: Path, dims: list[int], complaint: str):
    tables = Tables(tmp_path)
    pins = {"item_vectors": tables.replace("item_vectors", rows(["a"]))}
    description = {**draft(pins).description, "dims": dims}
    with pytest.raises(BadVectors, match=complaint):
        releases.publish(tables, draft(pins, description=description))


def test_a_version_that_does_not_exist_is_not_published(tmp_path: Path):
    tables = Tables(tmp_path)
    pins = {"item_vectors": tables.replace("item_vectors", rows(["a"])), "items": 3}
    with pytest.raises(UnknownTable, match="has no table 'items'"):
        releases.publish(tables, draft(pins))


def test_a_release_knows_its_dims_views_and_roles(tmp_path: Path):
    release = publish(tmp_path, ["a"])
    assert release.dim(None) == 16
    assert release.column(None, "context") == "fused_context"
    assert release.column("content", "context") == "content"
    with pytest.raises(UnknownDim, match="r1 has no dim 5: choose one of 4, 8, 16"):
        release.dim(5)
    with pytest.raises(
        UnknownView, match="r1 has no view 'fusd': choose one of 'fused', 'content'"
    ):
        release.column("fusd", "target")
    with pytest.raises(UnknownView, match="no role 'query': choose 'context' or 'target'"):
        release.column("fused", "query")


def test_killed_writers_leave_a_whole_release_and_readers_never_see_a_half_one(tmp_path: Path):
    uri, context = str(tmp_path / "store"), multiprocessing.get_context("spawn")
    published = 0
    for patience in (1, 3):
        ours, theirs = context.Pipe()
        writer = context.Process(target=publish_for_ever, args=(uri, theirs))
        writer.start()
        theirs.close()
        for _ in range(patience):
            while not ours.poll():  # the writer is busy: read all along
                published = max(published, check_whole(uri, published))
            ours.recv()
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        published = check_whole(uri, published)
    assert published >= 4


def check_whole(uri: str, at_least: int) -> int:
    """Read all of the visible release, prove that it is of one piece, return its number."""
    try:
        store = ItemStore.open(uri)
    except NoRelease:
        assert at_least == 0
        return 0
    number = int(store.release.name.removeprefix("r"))
    assert number >= at_least
    for role in ("context", "target"):
        answer = store.get_item_vectors(range(300), role=role)
        np.testing.assert_allclose(answer, np.tile(turned(number), (300, 1)), atol=1e-6)
    return number
