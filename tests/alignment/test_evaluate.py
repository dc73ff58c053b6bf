"""The report, its floors and its cold slice."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from alignment.consumer import trial
from alignment.evaluate import cross_version, report, without
from alignment.interactions import Split
from alignment.space import ItemSpace, Views, fit
from tests.alignment.world import DIMS, World

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
    wanted = {"vectors", "dim", "slice", "split", "masked", "R@10", "N@10", "R@20", "N@20", "se"}
    assert all(set(row) == wanted | {"users"} for row in rows)
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
    assert fit(world.content, other, dims=DIMS, seed=0).basis_id == space.basis_id


def test_a_version_is_compatible_with_itself(split: Split, views: Views) -> None:
    roles = (views.fused_context, views.fused_target)
    matrix = cross_version(roles, roles, trial(split, on="test"), dim=16)
    assert matrix["ratio"] == 1
    assert len({matrix[f"{a} x {b}"] for a in ("old", "new") for b in ("old", "new")}) == 1


def test_a_turned_version_is_not_compatible(split: Split, views: Views) -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((32, 32)))
    old = views.fused_context, views.fused_target
    new = tuple((rows @ turn).astype(np.float32) for rows in old)
    matrix = cross_version(old, (new[0], new[1]), trial(split, on="test"), dim=32)
    assert matrix["new x new"] == pytest.approx(matrix["old x old"], abs=0.01)
    assert matrix["ratio"] < 0.5


def test_evidence_turned_into_the_frame_is_compatible(
    world: World, split: Split, space: ItemSpace, views: Views
) -> None:
    newer = space.views(world.content, space.factorise(world.sequences))
    old = views.fused_context, views.fused_target
    new = newer.fused_context, newer.fused_target
    matrix = cross_version(old, new, trial(split, on="validation"), dim=32)
    assert matrix["ratio"] > 0.9
