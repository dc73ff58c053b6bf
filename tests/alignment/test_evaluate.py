"""The report, its floors and its cold slice."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from alignment.consumer import RECENCY, by_cosine, figures, rank, trial
from alignment.evaluate import (
    Version,
    cold_trials,
    cross_version,
    lacking,
    only,
    recall_together,
    report,
    share_in_top,
    together,
    within,
    without,
)
from alignment.fit import fit
from alignment.interactions import Split, from_log
from alignment.space import ItemSpace, Views
from alignment.whiten import Encoded
from tests.alignment.world import DIMS, World, content_of

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows(world: World, split: Split, space: ItemSpace) -> Rows:
    return report(space, world.content, split, dims=DIMS, seed=0)


def pick(rows: Rows, **wanted: Any) -> Iterable[dict[str, Any]]:
    return (row for row in rows if all(row[key] == value for key, value in wanted.items()))


def recall(rows: Rows, vectors: str, dim: int | None = None, slice: str = "warm") -> float:
    (row,) = pick(rows, vectors=vectors, dim=dim, slice=slice, masked=True)
    return row["R@10"]


def test_every_row_says_what_it_measured(rows: Rows) -> None:
    wanted = {"vectors", "dim", "slice", "split", "masked", "users"}
    measured = {"R@10", "N@10", "R@20", "N@20", "se", "se N@10"}
    assert all(set(row) == wanted | measured for row in rows)
    assert json.loads(json.dumps(rows)) == rows


def test_views_and_floors_are_there_masked_and_not(rows: Rows) -> None:
    warm = {(row["vectors"], row["dim"], row["masked"]) for row in pick(rows, slice="warm")}
    views = ("content", "aligned", "collaborative", "fused", "transitions_svd")
    expected = {(name, dim, masked) for name in views for dim in DIMS for masked in (True, False)}
    floors = ("popularity", "transitions", "item_knn")
    assert warm == expected | {(name, None, m) for name in floors for m in (True, False)}


def test_fused_is_above_popularity_and_content(rows: Rows) -> None:
    fused = recall(rows, "fused", 32)
    assert fused > 3 * recall(rows, "popularity")
    assert fused > recall(rows, "content", 32)


def test_cold_items_are_found_in_the_whole_catalogue(rows: Rows) -> None:
    assert recall(rows, "fused", 32, "cold") > 10 / 180  # what chance would find


def test_cold_items_are_found_sooner_among_themselves(rows: Rows) -> None:
    for dim in DIMS:
        alone = recall(rows, "fused", dim, "within cold")
        assert alone >= recall(rows, "fused", dim, "cold")
        assert alone > 0.6  # 18 of 180 items are cold, in about as many chains


def test_only_the_items_that_compete_have_a_rank(split: Split, views: Views) -> None:
    cases = trial(split, on="test")
    among = np.zeros(180, bool)
    among[cases.targets[0]] = True
    score = by_cosine(views.fused_context, views.fused_target, dim=8)
    ranks = rank(within(score, among), cases.only(np.array([0])))
    assert (ranks.unmasked.tolist(), ranks.masked.tolist()) == ([0], [0])


def test_no_cold_item_is_in_a_history_and_every_user_is_warm_or_cold(
    world: World, split: Split
) -> None:
    held = world.chain == 0
    found = cold_trials(split, held)
    assert len(found.cold) + len(found.warm) == len(split.users)
    assert held[found.cold.targets].all()
    assert not held[found.warm.targets].any()
    for cases in (found.cold, found.warm):
        assert not held[cases.history.indices].any()
    assert len(cold_trials(split, held, max_users=5).warm) == 5


def test_the_share_of_held_items_in_the_best_is_counted(split: Split) -> None:
    cases = trial(split, on="test")
    scores = np.arange(180, dtype=np.float32)  # the last ten are the best for everyone
    held = np.zeros(180, bool)
    held[[179, 175, 3]] = True
    assert share_in_top(lambda h: np.tile(scores, (h.shape[0], 1)), cases, held) == 0.2


def test_a_modality_alone_and_one_that_some_lack() -> None:
    rows, has = np.ones((4, 3), np.float32), np.array([True, True, True, False])
    content = content_of(4, text=Encoded(rows, has), image=Encoded(rows, ~has))
    alone = only(content, "image")
    assert not alone.text.has.any()
    np.testing.assert_array_equal(alone.image.has, ~has)
    fewer = lacking(content, "text", np.array([True, False, False, True]))
    assert fewer.text.has.tolist() == [False, True, True, False]
    np.testing.assert_array_equal(fewer.image.has, ~has)


def test_items_that_the_same_users_took_are_wanted_beside_each_other() -> None:
    users, items = np.divmod(np.arange(12), 3)  # four users take 0, 1, 2
    seq = from_log([*users, 8, 9], [*items, 3, 0], range(14), n_items=4, seed=0)
    wanted = together(seq, np.array([0, 1, 2, 3]), least=3)
    assert [row.tolist() for row in wanted] == [[1, 2], [2, 0], [1, 0], []]
    assert [row.tolist() for row in together(seq, np.array([0, 1]), least=5)] == [[], []]
    rows = np.array([[1, 0], [1, 0.1], [0, 1], [0.9, 0]], np.float32)
    assert recall_together(rows, wanted, k=1).tolist() == [0.5, 0.5, 0.5]
    assert recall_together(rows, wanted, k=3).tolist() == [1, 1, 1]


def test_masking_helps_where_nobody_repeats(rows: Rows) -> None:
    for row in pick(rows, masked=False, vectors="fused", slice="warm"):
        assert row["R@10"] <= recall(rows, "fused", row["dim"])


def test_what_is_held_out_is_nowhere_in_the_training_part(world: World, split: Split) -> None:
    held = world.chain == 0
    less = without(split, held)
    assert not held[less.train.items].any()
    assert not held[less.validation].any()
    assert less.train.n_users == split.train.n_users


def test_the_report_gives_the_same_rows_again(
    world: World, split: Split, space: ItemSpace, rows: Rows
) -> None:
    assert report(space, world.content, split, dims=DIMS, seed=0) == rows


def test_test_targets_do_not_change_the_space(world: World, split: Split, space: ItemSpace) -> None:
    shuffled = np.random.default_rng(0).permutation(split.test).astype(np.int32)
    other = Split(split.train, split.users, split.validation, shuffled)
    assert fit(world.content, other, dims=DIMS, seed=0).space.basis_id == space.basis_id


def version(views: Views, recency: float = RECENCY) -> Version:
    return Version(views.fused_context, views.fused_target, recency)


def test_each_version_is_read_with_its_own_recency(split: Split, views: Views) -> None:
    cases = trial(split, on="test")
    matrix = cross_version(version(views, 0.9), version(views, 0.1), cases, dim=16)
    assert matrix["old x old"] == matrix["old x new"] != matrix["new x old"]
    slow = rank(by_cosine(views.fused_context, views.fused_target, dim=16), cases.faded(0.9))
    assert matrix["old x old"] == figures(slow.masked)["R@10"]


def test_a_version_is_compatible_with_itself(split: Split, views: Views) -> None:
    same = version(views)
    matrix = cross_version(same, same, trial(split, on="test"), dim=16)
    assert matrix["ratio"] == 1
    assert len({matrix[f"{a} x {b}"] for a in ("old", "new") for b in ("old", "new")}) == 1


def test_a_turned_version_is_not_compatible(split: Split, views: Views) -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((32, 32)))
    old = version(views)
    context, target = ((rows @ turn).astype(np.float32) for rows in old[:2])
    new = Version(context, target, old.recency)
    matrix = cross_version(old, new, trial(split, on="test"), dim=32)
    assert matrix["new x new"] == pytest.approx(matrix["old x old"], abs=0.01)
    assert matrix["ratio"] < 0.5


def test_evidence_turned_into_the_frame_is_compatible(
    world: World, split: Split, space: ItemSpace, views: Views
) -> None:
    newer = space.views(world.content, space.factorise(world.sequences))
    old, new = version(views), version(newer)
    matrix = cross_version(old, new, trial(split, on="validation"), dim=32)
    assert matrix["ratio"] > 0.9
