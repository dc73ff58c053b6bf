"""The nested head and its loss, on pairs whose right answer is known."""

import numpy as np
import torch

from matryoshka.head import Head, identity
from matryoshka.loss import nested_info_nce
from matryoshka.pairs import Pairs
from matryoshka.prefix import Vectors, prefix, unit
from matryoshka.train import Schedule, fit, reproducible

QUICK = Schedule(steps=100, batch=64, rate=1e-2, check_every=20)
LONGER = Schedule(steps=400, batch=120, rate=2e-2, check_every=100)


def twins(n: int = 120, d: int = 16) -> tuple[Vectors, Pairs]:
    """Rows 2k and 2k + 1 agree in their last coordinates; the first ones are noise."""
    rng = np.random.default_rng(0)
    taste = np.repeat(rng.standard_normal((n // 2, 4)), 2, axis=0)
    rows = unit(np.hstack([2 * rng.standard_normal((n, d - 4)), taste]).astype(np.float32))
    even = np.arange(0, n, 2, dtype=np.int32)
    left, right = np.concatenate([even, even + 1]), np.concatenate([even + 1, even])
    return rows, Pairs(left, right, np.ones(n))


def found(rows: Vectors) -> float:
    """Part of the rows whose nearest other row is their twin."""
    scores = rows @ rows.T
    np.fill_diagonal(scores, -1)
    return float(np.mean(scores.argmax(axis=1) == np.arange(len(rows)) ^ 1))


def test_training_brings_pairs_together_at_every_prefix() -> None:
    rows, pairs = twins()
    head = fit(rows, pairs, [4, 16], seed=0, schedule=LONGER)
    assert found(prefix(rows, 4)) < 0.1
    assert found(prefix(head(rows), 4)) > 0.5
    assert found(head(rows)) > max(0.6, 2 * found(rows))


def test_the_same_seed_gives_the_same_head() -> None:
    rows, pairs = twins()
    first, second = (fit(rows, pairs, [4, 16], seed=3, schedule=QUICK) for _ in range(2))
    np.testing.assert_array_equal(first.weight, second.weight)


def test_the_best_head_seen_is_kept() -> None:
    rows, pairs = twins()
    marks = iter([0.5, 0.6, 0.9, 0.1, 0.1, 0.1, 0.1])
    seen: list[tuple[float, Head]] = []

    def quality(head: Head) -> float:
        seen.append((next(marks), head))
        return seen[-1][0]

    head = fit(rows, pairs, [4, 16], seed=0, schedule=QUICK, quality=quality)
    assert head is max(seen, key=lambda mark: mark[0])[1]


def test_without_pairs_the_head_changes_nothing() -> None:
    rows, _ = twins()
    none = Pairs(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0))
    np.testing.assert_array_equal(fit(rows, none, [4], seed=0).weight, identity(16).weight)


def test_a_row_of_the_head_depends_on_that_row_only() -> None:
    rows, pairs = twins()
    head = fit(rows, pairs, [4, 16], seed=0, schedule=QUICK)
    np.testing.assert_allclose(head(rows)[:3], head(rows[:3]), atol=1e-6)


def loss(left: torch.Tensor, right: torch.Tensor, **options: torch.Tensor) -> float:
    n = len(left)
    settings = {
        "temperatures": torch.tensor([0.1]),
        "log_popularity": torch.zeros(n),
        "forbidden": torch.zeros(n, n, dtype=torch.bool),
    }
    return float(nested_info_nce(left, right, [left.shape[1]], **(settings | options)))


def test_the_loss_is_the_cross_entropy_of_cosines() -> None:
    rows = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    expected = np.log(1 + np.exp(-1 / 0.1))
    assert abs(loss(rows, rows) - expected) < 1e-6


def test_forbidden_negatives_do_not_count() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert loss(rows, rows, forbidden=~torch.eye(2, dtype=torch.bool)) == 0
    assert loss(rows, rows) > 0.6


def test_a_negative_that_is_drawn_often_counts_less() -> None:
    user, items = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    none = torch.zeros(1, 2, dtype=torch.bool)
    rare = loss(user, items, forbidden=none, log_popularity=torch.tensor([0.0, -1.0]))
    often = loss(user, items, forbidden=none, log_popularity=torch.tensor([0.0, 1.0]))
    assert often < rare


def test_the_switches_of_torch_are_put_back() -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    with reproducible():
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 1
    assert (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()) == before
