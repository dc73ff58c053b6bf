"""Choices on validation that have a known answer."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from alignment import choose
from alignment.choose import Judge, choose_novelty, choose_recency, near
from alignment.collaborative import Collaborative, Recipe
from alignment.consumer import trial
from alignment.fuse import Dial, Residuals
from alignment.interactions import Sequences, from_log, leave_last_out
from matryoshka.prefix import Vectors, unit

TASTES, EACH = 20, 30
N = TASTES * EACH


def readers(wanted: str) -> Sequences:
    """Users with one taste, but for the item before the targets; those are of either's kind."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(400):
        taste, other = rng.choice(TASTES, 2, replace=False)
        target = other if wanted == "the last" else taste
        kinds = [taste] * 6 + [other] + [target] * 2
        rows += [(user, kind * EACH + rng.integers(EACH), t) for t, kind in enumerate(kinds)]
    users, items, times = zip(*rows, strict=True)
    return from_log(users, items, times, n_items=N, seed=0)


def kinds() -> Vectors:
    """One direction per taste, and a little of each item's own."""
    rng = np.random.default_rng(1)
    rows = np.repeat(np.eye(TASTES, 32), EACH, axis=0) + 0.05 * rng.standard_normal((N, 32))
    return unit(rows.astype(np.float32))


def judge(seq: Sequences) -> Judge:
    return Judge(trial(leave_last_out(seq), on="validation"), (32,), lambda _: None)


@pytest.mark.parametrize(("wanted", "chosen"), [("the last", (0.6,)), ("all", (0.95,))])
def test_histories_fade_as_users_forget(wanted: str, chosen: tuple[float, ...]) -> None:
    seq, rows = readers(wanted), kinds()
    found = choose_recency(Recipe(method="als"), Collaborative(rows, rows, seq.support), judge(seq))
    assert found.recency in chosen
    assert found.method == "als"


@pytest.mark.parametrize(
    ("recency", "tried"),
    [(0.6, [0.6, 0.8]), (0.8, [0.6, 0.8, 0.9]), (0.9, [0.8, 0.9, 0.95]), (0.95, [0.9, 0.95])],
)
def test_a_recency_is_tried_beside_the_next_ones(recency: float, tried: list[float]) -> None:
    recipe = Recipe(method="als", recency=recency)
    assert near(recipe) == [Recipe(method="als", recency=each) for each in tried]


def novelty(cold_rows: Vectors, cold: np.ndarray) -> float:
    seq, rows = readers("all"), kinds()
    rows[cold] = cold_rows[cold]
    support = np.where(cold, 0, 50).astype(np.int32)
    nothing = Residuals(np.zeros_like(rows), np.zeros_like(rows))
    return choose_novelty(Dial(), rows, rows, nothing, support, judge(seq)).novelty


def test_new_items_reach_as_far_as_costs_the_others_nothing() -> None:
    """New rows are a weak hint at their taste: reach helps them, where there are few of them."""
    rng = np.random.default_rng(2)
    cold = rng.random(N) < 0.02
    weak = unit(kinds() + 0.2 * rng.standard_normal((N, 32)).astype(np.float32))
    assert novelty(weak, cold) == max(choose.NOVELTY)


def test_new_items_that_crowd_others_out_reach_less() -> None:
    """New rows are as good as the others, and half of the catalogue."""
    cold = np.arange(N) % 2 == 0
    assert novelty(kinds(), cold) < max(choose.NOVELTY)


@dataclass(frozen=True)
class Told(Judge):
    """A judge that says what it is told to, one value after the other."""

    values: Iterator[float]

    def __call__(self, context: Vectors, target: Vectors) -> float:
        return next(self.values)


def reached(values: list[float], cold: np.ndarray) -> float:
    told = Told(judge(readers("all")).cases, (32,), lambda _: None, iter(values))
    rows, support = kinds(), np.where(cold, 0, 50).astype(np.int32)
    nothing = Residuals(np.zeros_like(rows), np.zeros_like(rows))
    return choose_novelty(Dial(), rows, rows, nothing, support, told).novelty


@pytest.mark.parametrize("top", [0.8, 0.2])  # where one standard error is less, and more
def test_new_items_reach_until_others_lose_a_standard_error_or_a_twentieth(top: float) -> None:
    cold = np.arange(N) == 0
    users = np.count_nonzero(~cold[judge(readers("all")).cases.targets])
    error = np.sqrt(top * (1 - top) / users)
    assert (error < 0.05 * top) == (top == 0.8)
    lost = min(error, 0.05 * top)
    within, beyond = top - 0.99 * lost, top - 1.01 * lost
    assert reached([top, within, within, beyond], cold) == choose.NOVELTY[2]
    assert reached([within, top, beyond], cold) == choose.NOVELTY[1]
    assert reached([top, *[within] * (len(choose.NOVELTY) - 1)], cold) == choose.NOVELTY[-1]


def test_the_dial_stands_where_nothing_is_new_or_nothing_is_found() -> None:
    assert reached([], np.zeros(N, bool)) == Dial().novelty
    assert reached([], np.ones(N, bool)) == Dial().novelty
    assert reached([0.0], np.arange(N) == 0) == Dial().novelty
