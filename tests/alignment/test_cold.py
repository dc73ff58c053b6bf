"""Items held out of training, and the users who ask for them."""

import numpy as np

from alignment.cold import cold_trials, held_out, share_in_top, without
from alignment.consumer import trial
from alignment.interactions import Split, playing_cold
from tests.alignment.world import World


def test_no_cold_item_is_in_a_history_and_every_user_is_warm_or_cold(
    world: World, split: Split
) -> None:
    held = world.chain == 0
    found = cold_trials(split, held)
    assert len(found.cold) + len(found.warm) == len(split.users)
    assert held[found.cold.targets].all()
    assert not held[found.warm.targets].any()
    for cases in (found.cold, found.warm):
        assert not held[cases.history.indices].any()
    assert len(cold_trials(split, held, max_users=5).warm) == 5


def test_the_share_of_held_items_in_the_best_is_counted(split: Split) -> None:
    cases = trial(split, on="test")
    scores = np.arange(180, dtype=np.float32)  # the last ten are the best for everyone
    held = np.zeros(180, bool)
    held[[179, 175, 3]] = True
    assert share_in_top(lambda h: np.tile(scores, (h.shape[0], 1)), cases, held) == 0.2


def test_what_is_held_out_is_nowhere_in_the_training_part(world: World, split: Split) -> None:
    held = world.chain == 0
    less = without(split, held)
    assert not held[less.train.items].any()
    assert not held[less.validation].any()
    assert less.train.n_users == split.train.n_users


def test_a_tenth_is_held_out_by_a_draw_apart_from_that_of_a_fit() -> None:
    held, playing = held_out(10_000, seed=3), playing_cold(10_000, seed=3)
    assert abs(held.mean() - 0.1) < 0.01
    assert abs(held[playing].mean() - 0.1) < 0.03
    np.testing.assert_array_equal(held, held_out(10_000, seed=3))
