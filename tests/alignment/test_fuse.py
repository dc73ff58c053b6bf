"""Fused rows: what a target's reach does to cosines, and how far evidence moves a row."""

import numpy as np
import pytest

from alignment.collaborative import Collaborative
from alignment.fuse import REACH, Dial, Residuals, fused, joined, reach, shrunk
from alignment.map import Map
from matryoshka.prefix import Vectors, prefix, unit

N, DIM = 30, 8
DIALS = [Dial(novelty=novelty) for novelty in (1.0, 1.1, 1.3)]


@pytest.fixture
def rows() -> Vectors:
    return unit(np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32))


@pytest.mark.parametrize("dial", DIALS)
def test_rows_are_unit_whatever_they_reach(rows: Vectors, dial: Dial) -> None:
    context, target = fused(rows, rows, np.arange(N, dtype=np.int32), dial)
    np.testing.assert_allclose(np.linalg.norm(target, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(context, axis=1), 1, atol=1e-6)
    assert context.shape == target.shape == (N, DIM + 1)


def test_a_cosine_is_an_inner_product_with_what_a_target_reaches(rows: Vectors) -> None:
    support = np.arange(N, dtype=np.int32)
    context, target = fused(rows, rows, support, Dial(novelty=1.3))
    np.testing.assert_allclose(
        context @ target.T, rows @ (rows * reach(support, Dial(novelty=1.3))).T, atol=1e-6
    )


@pytest.mark.parametrize("dim", [3, 5, DIM + 1])
def test_a_novelty_favours_new_targets_at_every_prefix(rows: Vectors, dim: int) -> None:
    """Row 1 is the same item as row 0, and nobody has touched it."""
    rows[1] = rows[0]
    support = np.full(N, 50, np.int32)
    support[1] = 0
    context, target = (prefix(part, dim) for part in fused(rows, rows, support, Dial(novelty=1.2)))
    old, new = context[0] @ target[0], context[0] @ target[1]
    known, novel = reach(support[:2], Dial(novelty=1.2)).ravel()
    least, most = novel / known, novel / known * np.sqrt((1 - known**2) / (1 - novel**2))
    assert least - 1e-6 < new / old < most


def test_what_is_new_fades_with_the_first_events() -> None:
    found = reach(np.array([0, 1, 2, 1000], np.int32), Dial(novelty=1.2)).ravel() / REACH
    np.testing.assert_allclose(found, [1.2, 1.1, 1 + 0.2 / 3, 1.0002], rtol=1e-5)


def test_residuals_turn_rows_before_they_reach(rows: Vectors) -> None:
    support = np.full(N, 9, np.int32)
    added = Residuals(np.roll(rows, 1, axis=0), np.zeros_like(rows))
    context, target = fused(rows, rows, support, Dial(), added)
    plain = fused(rows, rows, support, Dial())
    np.testing.assert_allclose(context[:, 1:], unit(rows + added.context), atol=1e-6)
    np.testing.assert_array_equal(target, plain[1])


def test_evidence_turns_a_row_steadily_and_by_a_right_angle_at_most(rows: Vectors) -> None:
    """Observed: anything, nearly the opposite of what was predicted, and the very opposite."""
    other = unit(np.random.default_rng(1).standard_normal((N, DIM)).astype(np.float32))
    for observed in (other, unit(other * 0.1 - rows), -rows):
        before = np.ones(N)
        for events in (0, 1, 2, 5, 10, 100, 10**4, 10**6):
            turned = shrunk(rows, observed, np.full(N, events, np.int32), Dial())
            cosine = (turned * rows).sum(axis=1)
            assert (cosine <= before + 1e-4).all()
            assert (cosine > -1e-3).all()
            before = cosine
        if observed is other:
            assert (before < 0.99).all()


@pytest.mark.parametrize("bound", [0.2, 0.5])
def test_a_smaller_bound_is_a_smaller_angle(rows: Vectors, bound: float) -> None:
    turned = shrunk(rows, -unit(rows + 0.3), np.full(N, 10**6, np.int32), Dial(bound=bound))
    angle = np.arccos((turned * rows).sum(axis=1))
    assert (angle < np.arcsin(bound) + 1e-4).all()
    assert angle.max() > 0.5 * np.arcsin(bound)


def test_items_without_content_have_a_part_of_zeros_and_move_like_others(rows: Vectors) -> None:
    observed = unit(np.roll(rows, 1, axis=0) + 0.5 * rows)
    content = np.vstack([np.zeros((2, DIM), np.float32), rows[2:]])
    same = Map(np.eye(DIM, dtype=np.float32), np.eye(DIM, dtype=np.float32))
    known = Collaborative(observed, observed, np.full(N, 500, np.int32))
    context, target = joined(content, known, same, Dial())
    np.testing.assert_array_equal(context, target)
    assert not context[:2, :DIM].any()
    assert (np.abs(context[2:, :DIM]).sum(axis=1) > 0).all()
    predicted = np.vstack([np.eye(2, DIM)[[0, 0]].astype(np.float32), rows[2:]])
    moved = shrunk(predicted, observed, known.support, Dial())
    np.testing.assert_allclose(unit(context[:, DIM:]), moved, atol=1e-6)
