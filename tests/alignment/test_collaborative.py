"""Co-visits and their factors."""

import numpy as np
import pytest
from scipy import sparse

from alignment import collaborative
from alignment.collaborative import Recipe, balanced, covisits, factorise, singular
from alignment.interactions import from_log
from tests.alignment.world import World

FORWARD = Recipe(window=3, decay=1.0, backward=0.0, balance=0.5, power=0.5)


def test_covisits_count_what_follows_by_its_distance() -> None:
    seq = from_log([0, 0, 0, 1, 1], [0, 1, 2, 2, 0], range(5), n_items=3, seed=0)
    counts = covisits(seq, window=2, decay=1.0).toarray()
    np.testing.assert_allclose(counts, [[0, 1, 0.5], [0, 0, 1], [1, 0, 0]])


def test_an_item_does_not_follow_itself() -> None:
    seq = from_log([0, 0, 0], [1, 1, 1], range(3), n_items=2, seed=0)
    assert covisits(seq, window=2, decay=0.0).nnz == 0


def test_a_backward_share_of_one_is_symmetric() -> None:
    seq = from_log([0, 0, 0, 1, 1], [0, 1, 2, 2, 0], range(5), n_items=3, seed=0)
    matrix = balanced(covisits(seq, window=2, decay=1.0), Recipe(backward=1.0)).toarray()
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-6)


def test_the_item_that_follows_is_the_nearest_target(world: World) -> None:
    known = factorise(world.sequences, dim=64, seed=0, recipe=FORWARD)
    scores = known.context @ known.target.T
    followed = np.flatnonzero(np.diff(world.chain, append=-1) == 0)  # not the last of its chain
    top = np.argsort(-scores[followed], axis=1)[:, :3]
    assert np.mean([f + 1 in row for f, row in zip(followed, top, strict=True)]) > 0.9


def test_rows_are_unit_with_support_and_zero_without(world: World) -> None:
    seq = world.sequences.keep(world.chain[world.sequences.items] != 0)
    known = factorise(seq, dim=16, seed=0)
    for rows in (known.context, known.target):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), known.support > 0, atol=1e-5)


def test_an_item_that_was_never_beside_another_has_a_unit_row() -> None:
    seq = from_log([0, 0, 1], [0, 1, 2], range(3), n_items=4, seed=0)
    known = factorise(seq, dim=4, seed=0)
    np.testing.assert_allclose(np.linalg.norm(known.target, axis=1), [1, 1, 1, 0], atol=1e-6)


def test_the_random_decomposition_finds_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    low = rng.standard_normal((200, 8)) @ rng.standard_normal((8, 200))
    matrix = sparse.csr_matrix(low.astype(np.float32))
    exact = singular(matrix, 8, seed=0)
    monkeypatch.setattr(collaborative, "EXACT_BELOW", 0)
    found = singular(matrix, 8, seed=0)
    np.testing.assert_allclose(found[1], exact[1], rtol=1e-3)
    np.testing.assert_allclose(found[0] * found[1] @ found[2].T, low, atol=1e-2)


def test_a_rank_below_the_dimension_leaves_zeros_behind() -> None:
    seq = from_log([0, 0, 1, 1], [0, 1, 1, 2], range(4), n_items=3, seed=0)
    known = factorise(seq, dim=8, seed=0)
    assert known.context.shape == (3, 8)
    assert not known.context[:, 3:].any()
