"""Tables of other recommenders in the place of co-visits."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from alignment.alternatives import held_out
from alignment.choose import RECENCIES
from alignment.collaborative import METHODS, Collaborative, Recipe, factorise
from alignment.fit import fit
from alignment.interactions import Split, from_log
from tests.alignment.world import DIMS, World

ALTERNATIVES = METHODS[1:]
NOBODY: list[tuple[int, int]] = []
ONE_EVENT = [(0, 0)]
ONE_ITEM = [(0, 0), (0, 0)]
ONE_USER = [(0, 0), (0, 1), (0, 2)]
CROWD = [(user, (user + step) % 5) for user in range(12) for step in range(3)]


@pytest.fixture(scope="module", params=ALTERNATIVES)
def known(world: World, request: pytest.FixtureRequest) -> Collaborative:
    recipe = Recipe(method=request.param)
    some = world.sequences.keep(world.sequences.users < 300)
    return factorise(some, dim=32, seed=0, recipe=recipe)


def test_the_nearest_item_is_of_the_same_chain(world: World, known: Collaborative) -> None:
    scores = known.context @ known.target.T
    np.fill_diagonal(scores, -2)
    best = world.chain[scores.argmax(axis=1)]
    assert np.mean(best == world.chain) > 0.8


def test_both_roles_are_equal(known: Collaborative) -> None:
    np.testing.assert_array_equal(known.context, known.target)


def test_the_strongest_coordinates_come_first(known: Collaborative) -> None:
    energy = np.square(known.target).sum(axis=0)
    assert energy[:16].sum() > 0.6 * energy.sum()


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_rows(world: World, method: str) -> None:
    few = world.sequences.keep(world.sequences.users < 60)
    one, same = (factorise(few, dim=16, seed=3, recipe=Recipe(method=method)) for _ in range(2))
    np.testing.assert_array_equal(one.target, same.target)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_items", [5, 40])
@pytest.mark.parametrize("rows", [NOBODY, ONE_EVENT, ONE_ITEM, ONE_USER, CROWD])
def test_poor_logs_give_unit_rows(rows: list, n_items: int, method: str) -> None:
    users, items = zip(*rows, strict=True) if rows else ((), ())
    seq = from_log(users, items, range(len(rows)), n_items=n_items, seed=0)
    known = factorise(seq, dim=16, seed=0, recipe=Recipe(method=method))
    assert known.target.shape == (n_items, 16)
    np.testing.assert_allclose(np.linalg.norm(known.target, axis=1), seq.support > 0, atol=1e-5)


def test_a_space_is_fitted_to_another_method(world: World, split: Split) -> None:
    recipe = Recipe(method="als")
    space = fit(world.content, split, dims=DIMS, seed=0, recipe=recipe).space
    assert replace(space.recipe, recency=recipe.recency) == recipe
    assert space.recency in RECENCIES
    known = space.factorise(split.train)
    np.testing.assert_allclose(known.context, known.target, atol=1e-6)


def test_the_last_events_of_most_users_are_learnt_from(world: World) -> None:
    split = held_out(world.sequences, seed=0)
    less = world.sequences.lengths - split.train.lengths
    assert sorted(less.tolist()) == [0] * 450 + [2] * 50


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    seq = from_log([0], [0], [0], n_items=1, seed=0)
    with pytest.raises(ValueError, match="covisits, als, bpr, sasrec"):
        factorise(seq, dim=2, seed=0, recipe=Recipe(method="word2vec"))


def test_without_the_library_the_extra_is_named(world: World, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "implicit", None)
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(ModuleNotFoundError, match=r"itemnest\[implicit\]"):
        factorise(world.sequences, dim=2, seed=0, recipe=Recipe(method="als"))
