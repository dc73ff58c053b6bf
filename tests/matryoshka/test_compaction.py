"""Energy compaction: inner products kept, prefixes best."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from matryoshka.compaction import joint_basis


def tables(seed: int, *, n: int = 60, d: int = 12, rank: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    spread = rng.standard_normal((2, rank, d)) * rng.uniform(0.1, 3, rank)[:, None]
    context, target = rng.standard_normal((2, n, rank)) @ spread
    return context.astype(np.float32), target.astype(np.float32)


@given(st.integers(0, 10**6))
def test_full_width_inner_products_do_not_change(seed: int) -> None:
    context, target = tables(seed)
    basis = joint_basis(context, target, width=12)
    scores = context @ target.T
    after = (context @ basis.context) @ (target @ basis.target).T
    np.testing.assert_allclose(after, scores, atol=2e-3 * np.abs(scores).max())


@given(st.integers(0, 10**6), st.integers(1, 11))
def test_no_other_cut_of_the_same_size_approximates_better(seed: int, k: int) -> None:
    context, target = tables(seed)
    basis = joint_basis(context, target, width=12)
    scores = (context @ target.T).astype(np.float64)
    cut = (context @ basis.context[:, :k]) @ (target @ basis.target[:, :k]).T
    u, s, vt = np.linalg.svd(scores)
    best = np.linalg.norm(scores - (u[:, :k] * s[:k]) @ vt[:k])
    assert np.linalg.norm(scores - cut) <= best + 5e-3 * np.linalg.norm(scores)


def test_columns_past_the_rank_are_zero() -> None:
    context, target = tables(0, rank=5)
    basis = joint_basis(context, target, width=12)
    assert not basis.context[:, 5:].any()
    assert not basis.target[:, 5:].any()


def test_nothing_to_compact_gives_a_zero_basis() -> None:
    empty = np.zeros((4, 3), np.float32)
    assert not joint_basis(empty, empty, width=3).context.any()
