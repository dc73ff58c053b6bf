"""A new space turned towards an older one: nearer to it, and none the worse."""

from dataclasses import replace

import numpy as np
import pytest

from alignment.collaborative import Recipe
from alignment.consumer import trial
from alignment.evaluate import roles_of
from alignment.fit import fit
from alignment.improve import Fitted
from alignment.interactions import Split
from alignment.space import Views
from alignment.towards import Published, blockwise, towards
from alignment.versions import Version, cross_version
from alignment.whiten import Content, Encoded
from matryoshka.prefix import Vectors, prefix
from tests.alignment.world import DIMS, World


def rotation(dim: int, seed: int) -> Vectors:
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
    return turn.astype(np.float32)


def test_a_rotation_within_blocks_is_recovered() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 9)).astype(np.float32)
    turn = np.zeros((9, 9), np.float32)
    turn[:4, :4], turn[4:, 4:] = rotation(4, 1), rotation(5, 2)
    np.testing.assert_allclose(blockwise(rows, rows @ turn, (4, 9)), turn, atol=1e-5)


def test_no_coordinate_leaves_its_granularity() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 9)).astype(np.float32)
    turn = blockwise(rows, rows @ rotation(9, 1), (4, 9))
    assert not turn[:4, 4:].any()
    assert not turn[4:, :4].any()
    np.testing.assert_allclose(turn @ turn.T, np.eye(9), atol=1e-5)


@pytest.fixture(scope="module")
def content(world: World) -> Content:
    """The same texts, read by another encoder, which has directions of its own."""
    mixed = np.tanh(3 * world.content.text.vectors @ rotation(24, 3)).astype(np.float32)
    return replace(world.content, text=Encoded(mixed, world.content.text.has))


@pytest.fixture(scope="module")
def other(content: Content, split: Split) -> Fitted:
    """The same shop with the other encoder, its log read otherwise."""
    recipe = Recipe(window=5, decay=1.0, backward=1.0, balance=0.25)
    return fit(content, split, dims=DIMS, seed=7, recipe=recipe)


@pytest.fixture(scope="module")
def turned(content: Content, views: Views, other: Fitted) -> tuple[Fitted, Views, Views]:
    """The other space turned towards the first, and its views before and after."""
    space, known, added = other
    before = space.views(content, known, added)
    space, added = towards(space, added, Published.of(before), Published.of(views))
    return Fitted(space, known, added), before, space.views(content, known, added)


def test_what_is_found_at_a_prefix_is_what_was_found(turned: tuple[Fitted, Views, Views]) -> None:
    _, before, after = turned
    for view in ("aligned", "fused"):
        old, new = roles_of(before)[view], roles_of(after)[view]
        for dim in DIMS:
            one, two = ([prefix(part, dim) for part in roles] for roles in (old, new))
            np.testing.assert_allclose(two[0] @ two[1].T, one[0] @ one[1].T, atol=2e-3)


def test_who_learnt_to_read_the_old_vectors_finds_more_in_the_new_ones(
    split: Split, views: Views, turned: tuple[Fitted, Views, Views]
) -> None:
    fitted, *versions = turned
    old = Version(views.fused_context, views.fused_target, fitted.space.recency)
    cases = trial(split, on="test")
    for dim in DIMS:
        unturned, now = (
            cross_version(old, Version.of(fitted.space, new), cases, dim=dim)["ratio"]
            for new in versions
        )
        assert now > max(0.5, unturned + 0.2)


def test_it_is_another_space_that_can_be_kept(
    content: Content, split: Split, other: Fitted, turned: tuple[Fitted, Views, Views]
) -> None:
    space, known, _ = turned[0]
    assert space.basis_id != other.space.basis_id
    again = space.views(content, known, space.learn(content, known, split.train))
    cases, version = trial(split, on="validation"), Version.of(space, turned[2])
    assert cross_version(version, Version.of(space, again), cases, dim=DIMS[-1])["ratio"] > 0.9
