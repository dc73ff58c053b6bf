"""The nested head on a planted world, whose content hides who follows whom."""

from dataclasses import replace

import numpy as np
import pytest

from alignment.aligned import DEFAULT_SCHEDULE, fit_head
from alignment.consumer import by_cosine, figures, rank, trial
from alignment.interactions import Sequences, Split, leave_last_out
from matryoshka.head import Head, identity
from matryoshka.prefix import Vectors, unit
from tests.alignment.world import DIMS, World

QUICK = replace(DEFAULT_SCHEDULE, steps=40, epochs=40)
LONGER = replace(QUICK, steps=150)


@pytest.fixture(scope="module")
def rows(world: World) -> Vectors:
    """Content behind coordinates that are louder and say nothing."""
    noise = np.random.default_rng(1).standard_normal((len(world.content), 8))
    return unit(np.hstack([0.4 * noise, world.content.text.vectors]).astype(np.float32))


def learnt(rows: Vectors, seq: Sequences, **options: object) -> Head:
    given = {"recency": 0.6, "seed": 0, "schedule": QUICK} | options
    return fit_head(rows, seq, DIMS, **given)  # type: ignore[arg-type]


def recall(rows: Vectors, split: Split, dim: int) -> float:
    ranks = rank(by_cosine(rows, rows, dim=dim), trial(split, on="test"))
    return figures(ranks.unmasked)["R@10"]


@pytest.mark.parametrize("dim", DIMS)
def test_what_follows_is_found_at_every_prefix(rows: Vectors, split: Split, dim: int) -> None:
    aligned = learnt(rows, split.train, schedule=LONGER)(rows)
    assert recall(aligned, split, dim) > 1.2 * recall(rows, split, dim)


def test_items_that_were_never_seen_come_nearer_to_their_kind(
    rows: Vectors, split: Split, world: World
) -> None:
    cold = np.arange(len(rows)) % 3 == 1
    aligned = learnt(rows, split.train.keep(~cold[split.train.items]), schedule=LONGER)(rows)

    def own(vectors: Vectors) -> float:
        """Part of the five nearest seen items that are of the chain of a cold one."""
        nearest = np.argsort(-vectors[cold] @ vectors[~cold].T, axis=1)[:, :5]
        return float(np.mean(world.chain[~cold][nearest] == world.chain[cold][:, None]))

    assert own(aligned) > 1.3 * own(rows)


def test_the_same_log_gives_the_same_head(rows: Vectors, split: Split) -> None:
    one, two = (learnt(rows, split.train) for _ in range(2))
    np.testing.assert_array_equal(one.weight, two.weight)


def test_a_row_of_the_head_depends_on_that_row_only(rows: Vectors, split: Split) -> None:
    head = learnt(rows, split.train)
    np.testing.assert_allclose(head(rows)[:3], head(rows[:3]), atol=1e-6)


def test_a_head_that_nobody_likes_better_is_left_as_it_was(rows: Vectors, split: Split) -> None:
    liked = learnt(rows, split.train, quality=lambda head: -float(np.abs(head.weight).sum()))
    np.testing.assert_array_equal(liked.weight, identity(rows.shape[1]).weight)


def test_a_log_in_which_nothing_follows_teaches_nothing(rows: Vectors, world: World) -> None:
    none = world.sequences.keep(np.zeros(len(world.sequences.items), bool))
    assert not len(leave_last_out(none).users)
    np.testing.assert_array_equal(learnt(rows, none).weight, identity(rows.shape[1]).weight)
