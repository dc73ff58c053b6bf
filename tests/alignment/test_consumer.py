"""Ranks of consumer A against a slow, plain count."""

import numpy as np
import pytest
from scipy import sparse

from alignment import consumer
from alignment.consumer import Trial, by_cosine, figures, rank, trial
from alignment.interactions import from_log, leave_last_out
from matryoshka.prefix import prefix, unit


def cases(n_users: int = 30, n_items: int = 40) -> Trial:
    rng = np.random.default_rng(0)
    rows = [(u, int(rng.integers(n_items)), t) for u in range(n_users) for t in range(8)]
    users, items, times = zip(*rows, strict=True)
    split = leave_last_out(from_log(users, items, times, n_items=n_items, seed=0))
    return trial(split, on="test")


def tables(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    context, target = rng.standard_normal((2, n, d)).astype(np.float32)
    return unit(context), unit(target)


def test_ranks_are_those_of_a_plain_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "BLOCK_BYTES", 40 * 4 * 7)  # several blocks
    some, (context, target) = cases(), tables(40, 6)
    ranks = rank(by_cosine(context, target, dim=4), some)
    c, t = prefix(context, 4), prefix(target, 4)
    for user in range(len(some)):
        scores = (some.history[user] @ c) @ t.T
        goal, seen = some.targets[user], set(some.seen[user].indices) - {some.targets[user]}
        above = [i for i in range(40) if scores[0, i] > scores[0, goal]]
        assert ranks.unmasked[user] == len(above)
        assert ranks.masked[user] == len([i for i in above if i not in seen])


def test_ties_get_the_middle_rank() -> None:
    none = sparse.csr_matrix((1, 5), dtype=np.float32)
    seen = sparse.csr_matrix(np.array([[1, 1, 0, 0, 0]], np.float32))
    ranks = rank(lambda h: np.zeros((h.shape[0], 5), np.float32), Trial(none, seen, np.int32([2])))
    assert ranks.unmasked[0] == 2  # four others beside it, all level
    assert ranks.masked[0] == 1


def test_a_target_bought_before_is_not_masked() -> None:
    seq = from_log([0] * 4, [1, 2, 3, 1], range(4), n_items=5, seed=0)
    some = trial(leave_last_out(seq), on="test")
    scores = np.array([[0, 9, 5, 5, 0]], np.float32)
    assert rank(lambda h: scores, some).masked[0] == 0


def test_the_test_history_ends_with_the_validation_target() -> None:
    split = leave_last_out(from_log([0] * 4, [3, 2, 1, 0], range(4), n_items=4, seed=0))
    before, after = (trial(split, on=on) for on in ("validation", "test"))
    np.testing.assert_allclose(before.history.toarray(), [[0, 0, 1, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(after.history.toarray(), [[0, 1, 0.6, 0.36]], rtol=1e-6)
    assert (before.targets.tolist(), after.targets.tolist()) == ([1], [0])


def test_a_sample_of_users_is_the_same_for_a_seed() -> None:
    split = leave_last_out(
        from_log(np.repeat(range(50), 3), np.arange(150) % 7, range(150), n_items=7, seed=0)
    )
    first, again = (trial(split, on="test", max_users=10, seed=4) for _ in range(2))
    assert len(first) == 10
    np.testing.assert_array_equal(first.targets, again.targets)


def test_figures_of_known_ranks() -> None:
    table = figures(np.array([0.0, 9.0, 15.0, 100.0]))
    assert (table["R@10"], table["R@20"]) == (0.5, 0.75)
    assert table["N@10"] == pytest.approx((1 + 1 / np.log2(11)) / 4)
    assert table["se"] == pytest.approx(0.25)
    gain = np.array([1, 1 / np.log2(11), 0, 0])
    assert table["se N@10"] == pytest.approx(gain.std() / 2)


def test_a_trial_can_fade_at_another_rate() -> None:
    split = leave_last_out(from_log([0] * 5, [3, 2, 3, 0, 1], range(5), n_items=4, seed=0))
    some = trial(split, on="test")
    np.testing.assert_allclose(some.faded(0.6).history.data, some.history.data, rtol=1e-5)
    np.testing.assert_allclose(
        some.faded(0.8).history.toarray(), [[1, 0, 0.64, 0.8 + 0.512]], rtol=1e-5
    )


def test_items_that_nobody_has_met_are_neither_read_nor_masked() -> None:
    split = leave_last_out(from_log([0] * 5, [3, 2, 3, 0, 1], range(5), n_items=4, seed=0))
    some = trial(split, on="test")
    less = some.without(np.array([False, False, True, False]))
    np.testing.assert_allclose(less.history.toarray(), [[1, 0, 0, 0.6 + 0.216]], rtol=1e-5)
    assert less.history.nnz == 3
    assert less.seen.indices.tolist() == [0, 3]
    assert some.history.nnz == 4
    assert some.seen.indices.tolist() == [0, 2, 3]


def test_without_users_figures_are_zero() -> None:
    assert figures(np.zeros(0))["R@10"] == 0
