"""Floors on logs and contents whose best ranking is known."""

import numpy as np
import pytest
from scipy import sparse

from alignment import choose
from alignment.consumer import Trial, figures, rank, trial
from alignment.floors import (
    BOUNDED,
    FULL,
    Best,
    Ranked,
    Value,
    Way,
    baskets,
    behaviour_floors,
    content_floors,
    neighbourhood,
)
from alignment.interactions import Split, from_log, leave_last_out
from alignment.whiten import Encoded
from matryoshka.prefix import Vectors
from tests.alignment.world import DIMS, World, content_of, only_text


@pytest.fixture(scope="module")
def cases(split: Split) -> Trial:
    return trial(split, on="test")


@pytest.fixture(scope="module")
def floors(split: Split, cases: Trial) -> list[Ranked]:
    return behaviour_floors(split, cases, dims=DIMS, seed=0)


def recall(found: list[Ranked], vectors: str, dim: int | None = None) -> float:
    (ranks,) = [each.ranks for each in found if (each.vectors, each.dim) == (vectors, dim)]
    return figures(ranks.masked)["R@10"]


def test_what_follows_what_is_found_by_counting(floors: list[Ranked]) -> None:
    assert recall(floors, "transitions") > recall(floors, "item_knn") > 0.65
    assert recall(floors, "popularity") < 0.2


def test_the_factors_of_the_counts_come_near_them_as_dims_grow(floors: list[Ranked]) -> None:
    narrow, middle, wide = (recall(floors, "transitions_svd", dim) for dim in DIMS)
    assert narrow < middle < wide
    assert wide > 0.9 * recall(floors, "transitions")


def test_the_bounded_grid_is_part_of_the_full_one() -> None:
    assert set(BOUNDED.recipes) < set(FULL.recipes)
    assert set(BOUNDED.recencies) < set(FULL.recencies)


def test_floors_try_all_that_our_vectors_may_try() -> None:
    assert set(choose.WINDOWS) < set(FULL.windows)
    assert set(choose.BACKWARD) <= set(FULL.backward)
    assert set(choose.BALANCES) < set(FULL.balances)
    assert set(choose.SINGULAR_POWERS) <= set(FULL.powers)
    assert set(choose.RECENCIES) < set(FULL.recencies)
    assert set(choose.RECENCIES) <= set(BOUNDED.recencies)


def test_floors_are_the_same_again_and_never_see_test_targets(
    split: Split, cases: Trial, floors: list[Ranked]
) -> None:
    other = Split(split.train, split.users, split.validation, split.test[::-1].copy())
    again = behaviour_floors(other, cases, dims=DIMS, seed=0)
    for one, two in zip(floors, again, strict=True):
        np.testing.assert_array_equal(one.ranks.unmasked, two.ranks.unmasked)


def test_a_floor_is_chosen_for_each_ranking() -> None:
    """Fifteen seen items before the right one cost nothing once seen items are left out."""
    seen = sparse.csr_matrix(np.repeat([[1.0] * 15 + [0.0] * 25], 2, axis=0), dtype=np.float32)
    cases = Trial(seen, seen, np.array([15, 15], np.int32))
    behind = np.zeros((2, 40), np.float32)
    behind[:, :16] = [2] * 15 + [1]
    half = np.eye(2, 40, 15, dtype=np.float32) - np.eye(2, 40, 14, dtype=np.float32)

    def way(scores: Vectors) -> Way:
        return Way(lambda: lambda _: scores, 1.0, Value.of(rank(lambda _: scores, cases)))

    best = Best.of([way(half), way(behind)])
    assert best.unmasked.value == (0.5, 0.5)
    assert best.masked.value == (0.0, 1.0)
    assert best(cases).unmasked.tolist() == [0, 39]
    assert best(cases).masked.tolist() == [0, 0]


def test_popularity_ranks_by_events() -> None:
    seq = from_log(np.repeat(range(4), 4), [0, 0, 2, 1] * 4, [0, 1, 2, 3] * 4, n_items=4, seed=0)
    split = leave_last_out(seq)
    (found, *_) = behaviour_floors(split, trial(split, on="test"), dims=(2,), seed=0)
    assert found.vectors == "popularity"
    assert found.ranks.unmasked.tolist() == [2.0] * 4  # 0 first, then 1, 2 and 3 at once
    assert found.ranks.masked.tolist() == [0.5] * 4  # 1 and 3 are left


def test_content_floors_have_a_row_for_every_width_that_there_is(
    world: World, cases: Trial
) -> None:
    found = content_floors(world.content, cases, dims=(8, 16, 32))  # texts are 24 wide
    have = {(each.vectors, each.dim) for each in found}
    kinds = ("text_pca", "text_white")
    assert have == {("text_raw", 24)} | {(kind, dim) for kind in kinds for dim in (8, 16)}
    assert recall(found, "text_raw", 24) > 1.5 * 10 / 180  # tastes are in the texts


def test_scale_decides_raw_content_and_not_whitened(cases: Trial) -> None:
    rng = np.random.default_rng(0)
    chains = np.repeat(np.eye(12, dtype=np.float32), 15, axis=0)
    loud = 20 * rng.standard_normal((180, 2)).astype(np.float32)
    found = content_floors(only_text(np.hstack([chains, loud])), cases, dims=(2, 8))
    assert recall(found, "text_white", 8) > 2 * recall(found, "text_pca", 2)
    assert recall(found, "text_white", 8) > 2 * recall(found, "text_raw", 14)


def test_items_without_the_modality_score_as_nothing(world: World, cases: Trial) -> None:
    text = world.content.text.vectors.copy()
    bare = np.zeros(180, bool)
    bare[:15] = True
    text[bare] = np.nan
    content = content_of(180, text=Encoded(text, ~bare))
    for each in content_floors(content, cases, dims=(8,)):
        assert np.isfinite(each.ranks.unmasked).all()


def test_the_neighbourhood_is_the_cosine_of_the_sets_of_users() -> None:
    seq = from_log([0, 0, 0, 1, 1, 2], [0, 1, 0, 0, 2, 1], range(6), n_items=3, seed=0)
    np.testing.assert_array_equal(baskets(seq, most=9).toarray(), [[1, 1, 0], [1, 0, 1], [0, 1, 0]])
    expected = [[0, 1 / 2, 1 / 2**0.5], [1 / 2, 0, 0], [1 / 2**0.5, 0, 0]]
    np.testing.assert_allclose(neighbourhood(seq).toarray(), expected, rtol=1e-6)
