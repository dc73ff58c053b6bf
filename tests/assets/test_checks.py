"""The gates of a release: each opens and closes where it says."""

import numpy as np
import pyarrow as pa

from assets import checks

ROW = {
    "vectors": "fused",
    "dim": 128,
    "slice": "warm",
    "split": "test",
    "masked": True,
    "users": 5000,
}


def ids(*values: str) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values)])


def test_an_empty_or_halved_catalogue_is_refused_and_a_shrunken_one_is_not() -> None:
    assert not checks.catalogue_is_whole(0, None).passed
    assert not checks.catalogue_is_whole(49, 100).passed
    assert checks.catalogue_is_whole(50, 100).passed
    assert checks.catalogue_is_whole(1, None).passed


def test_rows_that_are_nan_or_not_of_length_one_are_refused_by_name() -> None:
    good = np.eye(3, dtype=np.float32)
    assert checks.rows_are_unit({"fused": good}).passed
    for bad in (good * 1.01, np.full((1, 3), np.nan, np.float32), np.zeros((1, 3), np.float32)):
        found = checks.rows_are_unit({"content": good, "fused": bad})
        assert not found.passed
        assert "fused" in found.reason
        assert "content" not in found.reason


def test_missing_repeated_and_foreign_vectors_are_each_counted() -> None:
    assert checks.every_item_has_one_vector(ids("a", "b"), ids("b", "a")).passed
    found = checks.every_item_has_one_vector(ids("a", "b", "c"), ids("a", "a", "x"))
    assert not found.passed
    assert found.numbers == {"missing": 2, "repeated": 1, "extra": 1}


def test_fused_below_popularity_is_refused_unless_users_are_too_few() -> None:
    fused = {**ROW, "R@20": 0.10, "se": 0.01}
    floor = {**ROW, "vectors": "popularity", "dim": None, "R@20": 0.20, "se": 0.01}
    assert not checks.beats_popularity([fused, floor]).passed
    assert checks.beats_popularity([{**fused, "R@20": 0.19}, floor]).passed
    assert checks.beats_popularity([{**fused, "users": 20}, floor]).passed
    assert checks.beats_popularity([]).passed


def test_fused_below_the_best_floor_of_any_kind_is_told() -> None:
    fused = {**ROW, "R@20": 0.10}
    floors = [
        {**ROW, "vectors": "popularity", "dim": None, "R@20": 0.05},
        {**ROW, "vectors": "transitions_svd", "dim": 64, "R@20": 0.30},
        {**ROW, "vectors": "transitions_svd", "dim": 128, "R@20": 0.20},
        {**ROW, "vectors": "item_knn", "dim": None, "R@20": 0.15},
    ]
    found = checks.beats_every_floor([fused, *floors])
    assert not found.passed
    assert "transitions_svd 0.2000" in found.reason  # at its widest, as fused is
    assert found.numbers["item_knn"] == 0.15
    assert checks.beats_every_floor([{**fused, "R@20": 0.19}, *floors]).passed
    assert checks.beats_every_floor([{**fused, "users": 20}, *floors]).passed
    assert checks.beats_every_floor([]).passed


def test_a_granularity_that_lost_a_tenth_beyond_noise_blocks_the_release() -> None:
    before = [{**ROW, "R@20": 0.300, "se": 0.005}]
    assert checks.holds_against(before, None).passed
    assert checks.holds_against([{**ROW, "R@20": 0.260, "se": 0.005}], before).passed
    found = checks.holds_against([{**ROW, "R@20": 0.200, "se": 0.005}], before)
    assert not found.passed
    assert "128-d" in found.reason
