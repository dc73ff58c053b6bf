"""The report, its floors and its cold slice."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from alignment import evaluate
from alignment.cold import held_out, without
from alignment.consumer import by_cosine, rank, trial
from alignment.evaluate import report, within
from alignment.fit import fit
from alignment.improve import Fitted
from alignment.interactions import Split, playing_cold
from alignment.space import ItemSpace, Views
from alignment.whiten import Bits
from tests.alignment.world import DIMS, World

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows(world: World, split: Split, fitted: Fitted) -> Rows:
    return report(fitted, world.content, split, dims=DIMS, seed=0)


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


def test_masking_helps_where_nobody_repeats(rows: Rows) -> None:
    for row in pick(rows, masked=False, vectors="fused", slice="warm"):
        assert row["R@10"] <= recall(rows, "fused", row["dim"])


def test_the_report_gives_the_same_rows_again(
    world: World, split: Split, fitted: Fitted, rows: Rows
) -> None:
    assert report(fitted, world.content, split, dims=DIMS, seed=0) == rows


def test_new_items_are_others_than_those_by_which_their_reach_was_chosen(
    world: World, split: Split, fitted: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Bits] = []

    def noted(split: Split, those: Bits) -> Split:
        held.append(those)
        return without(split, those)

    monkeypatch.setattr(evaluate, "without", noted)
    report(fitted, world.content, split, dims=DIMS, seed=2)
    assert held[0].any()
    assert not (held[0] & playing_cold(180, seed=fitted.space.seed)).any()
    assert (held_out(180, seed=2) & playing_cold(180, seed=fitted.space.seed)).any()


def test_test_targets_do_not_change_the_space(world: World, split: Split, space: ItemSpace) -> None:
    shuffled = np.random.default_rng(0).permutation(split.test).astype(np.int32)
    other = Split(split.train, split.users, split.validation, shuffled)
    assert fit(world.content, other, dims=DIMS, seed=0).space.basis_id == space.basis_id
