"""The paired bootstrap against arithmetic that is known."""

import numpy as np
import pytest

from alignment import statistics
from alignment.statistics import paired_bootstrap


def hits(share: float, n: int = 4000, *, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < share).astype(float)


def test_the_difference_is_that_of_the_means() -> None:
    a, b = hits(0.10), hits(0.08, seed=1)
    found = paired_bootstrap(a, b, seed=0)
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert found.low < found.difference < found.high


def test_a_row_is_not_better_than_itself() -> None:
    found = paired_bootstrap(hits(0.1), hits(0.1), seed=0)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_the_interval_is_that_of_a_normal_mean() -> None:
    a, b = np.random.default_rng(2).normal(0.1, 1.0, (2, 2000))
    found = paired_bootstrap(a, b, seed=0)
    error = (a - b).std() / np.sqrt(len(a))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_few_sure_wins_are_significant_and_a_coin_is_not() -> None:
    b = hits(0.08)
    a = b.copy()
    a[np.flatnonzero(b == 0)[:40]] = 1  # a never loses
    assert paired_bootstrap(a, b, seed=0).p < 0.01
    a[np.flatnonzero(b == 1)[:40]] = 0  # and now as often as it wins
    assert paired_bootstrap(a, b, seed=0).p > 0.5


def test_swapping_the_sides_turns_the_sign() -> None:
    a, b = hits(0.12), hits(0.08, seed=1)
    one, other = paired_bootstrap(a, b, seed=3), paired_bootstrap(b, a, seed=3)
    assert one.difference == -other.difference
    assert one.p == pytest.approx(other.p, abs=0.01)


def test_blocks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = hits(0.12), hits(0.08, seed=1)
    whole = paired_bootstrap(a, b, seed=3, rounds=300)
    monkeypatch.setattr(statistics, "BLOCK", 3 * 7)
    assert paired_bootstrap(a, b, seed=3, rounds=300) == whole


def test_other_users_on_the_two_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="values of 3 and 2 users"):
        paired_bootstrap(np.zeros(3), np.zeros(2), seed=0)
