"""Co-visits and their factors."""

from dataclasses import astuple

import numpy as np
import pytest
from scipy import sparse

from alignment import collaborative, limits
from alignment.collaborative import METHODS, Recipe, balanced, covisits, factorise, singular
from alignment.interactions import Sequences, from_log
from tests.alignment.world import World, plant

FORWARD = Recipe(window=3, decay=1.0, backward=0.0, balance=0.5, power=0.5)


def test_covisits_count_what_follows_by_its_distance() -> None:
    seq = from_log([0, 0, 0, 1, 1], [0, 1, 2, 2, 0], range(5), n_items=3, seed=0)
    counts = covisits(seq, window=2, decay=1.0).toarray()
    np.testing.assert_allclose(counts, [[0, 1, 0.5], [0, 0, 1], [1, 0, 0]])


def test_an_item_does_not_follow_itself() -> None:
    seq = from_log([0, 0, 0], [1, 1, 1], range(3), n_items=2, seed=0)
    assert covisits(seq, window=2, decay=0.0).nnz == 0


def test_a_backward_share_of_one_is_symmetric() -> None:
    seq = from_log([0, 0, 0, 1, 1], [0, 1, 2, 2, 0], range(5), n_items=3, seed=0)
    matrix = balanced(covisits(seq, window=2, decay=1.0), Recipe(backward=1.0)).toarray()
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-6)


def test_the_item_that_follows_is_the_nearest_target(world: World) -> None:
    known = factorise(world.sequences, dim=64, seed=0, recipe=FORWARD)
    scores = known.context @ known.target.T
    followed = np.flatnonzero(np.diff(world.chain, append=-1) == 0)  # not the last of its chain
    top = np.argsort(-scores[followed], axis=1)[:, :3]
    assert np.mean([f + 1 in row for f, row in zip(followed, top, strict=True)]) > 0.9


def test_rows_are_unit_with_support_and_zero_without(world: World) -> None:
    seq = world.sequences.keep(world.chain[world.sequences.items] != 0)
    known = factorise(seq, dim=16, seed=0)
    for rows in (known.context, known.target):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), known.support > 0, atol=1e-5)


def test_an_item_that_was_never_beside_another_has_a_unit_row() -> None:
    seq = from_log([0, 0, 1], [0, 1, 2], range(3), n_items=4, seed=0)
    known = factorise(seq, dim=4, seed=0)
    np.testing.assert_allclose(np.linalg.norm(known.target, axis=1), [1, 1, 1, 0], atol=1e-6)


@pytest.mark.parametrize("exact_below", [0, 10_000])
def test_an_item_that_nothing_follows_has_the_mean_and_no_noise(
    world: World, monkeypatch, exact_below: int
) -> None:
    monkeypatch.setattr(collaborative, "EXACT_BELOW", exact_below)
    seq = world.sequences.keep(world.sequences.users < 60)
    counts = covisits(seq, window=FORWARD.window, decay=FORWARD.decay)
    last = (np.diff(counts.indptr) == 0) & (seq.support > 0)
    context = factorise(seq, dim=32, seed=0, recipe=FORWARD).context[last]
    assert len(context) > 1
    np.testing.assert_allclose(context, np.tile(context[0], (len(context), 1)), atol=1e-6)


def test_the_random_decomposition_finds_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    low = rng.standard_normal((200, 8)) @ rng.standard_normal((8, 200))
    matrix = sparse.csr_matrix(low.astype(np.float32))
    exact = singular(matrix, 8, seed=0)
    monkeypatch.setattr(collaborative, "EXACT_BELOW", 0)
    found = singular(matrix, 8, seed=0)
    np.testing.assert_allclose(found[1], exact[1], rtol=1e-3)
    np.testing.assert_allclose(found[0] * found[1] @ found[2].T, low, atol=1e-2)


@pytest.mark.parametrize("cores", [1, 2, 8])
def test_cores_change_no_digit_of_a_product(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(collaborative, "_cores", lambda: cores)
    matrix = sparse.random(900, 900, density=0.05, format="csr", dtype=np.float32, rng=0)
    rows = np.random.default_rng(1).standard_normal((900, 40), dtype=np.float32)
    np.testing.assert_array_equal(collaborative._product(matrix, rows), matrix @ rows)
    np.testing.assert_array_equal(collaborative._product(matrix.T, rows), matrix.T @ rows)


def test_nobody_who_took_two_items_is_no_error_in_a_large_catalogue() -> None:
    known = factorise(log([[0], [700]], 701), dim=4, seed=0)
    np.testing.assert_allclose(known.target[[0, 700]], [[1, 0, 0, 0]] * 2)
    assert known.support.sum() == 2


def test_a_rank_below_the_dimension_leaves_zeros_behind() -> None:
    seq = from_log([0, 0, 1, 1], [0, 1, 1, 2], range(4), n_items=3, seed=0)
    known = factorise(seq, dim=8, seed=0)
    assert known.context.shape == (3, 8)
    assert not known.context[:, 3:].any()


def log(histories: list[list[int]], n_items: int) -> Sequences:
    users = np.repeat(np.arange(len(histories)), [len(items) for items in histories])
    return from_log(users, np.concatenate(histories), range(len(users)), n_items=n_items, seed=0)


def with_user(seq: Sequences, items: np.ndarray) -> Sequences:
    """The same log and one user more."""
    return Sequences(
        np.append(seq.indptr, len(seq.items) + len(items)),
        np.append(seq.items, items).astype(np.int32),
        np.append(seq.times, np.arange(len(items))),
        seq.n_items,
    )


def test_a_log_counted_in_blocks_is_counted_alike(world: World, monkeypatch) -> None:
    whole = covisits(world.sequences, window=3, decay=0.5)
    monkeypatch.setattr(collaborative, "EVENTS_AT_ONCE", 7)
    blocks = covisits(world.sequences, window=3, decay=0.5)
    np.testing.assert_allclose(blocks.toarray(), whole.toarray(), rtol=1e-5)


def test_a_pair_counts_once_however_often_a_user_repeats_it() -> None:
    counts = covisits(log([[0, 1] * 1000], 2), window=20, decay=0.5).toarray()
    np.testing.assert_allclose(counts, [[0, 1], [1, 0]])


def test_a_user_counts_in_all_as_the_cap_allows(monkeypatch) -> None:
    monkeypatch.setattr(limits, "CAP", 5)
    few, many = (covisits(log([list(range(n))], n), window=2, decay=1.0).sum() for n in (5, 1000))
    assert few == 4 * 1 + 3 * 0.5
    assert many == pytest.approx(5 * (1 + 0.5))


def test_weights_scale_what_users_count() -> None:
    seq = log([[0, 1], [1, 2], [2, 0]], 3)
    counts = covisits(seq, window=2, decay=1.0, weights=np.array([1, 0.5, 0], np.float32))
    np.testing.assert_allclose(counts.toarray(), [[0, 1, 0], [0, 0, 0.5], [0, 0, 0]])


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 1.5], [1, 1, -1], [1, 1, np.nan]])
def test_weights_that_are_not_a_share_per_user_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"give one each|scale the weights"):
        factorise(log([[0, 1]] * 3, 2), dim=2, seed=0, weights=np.array(weights, np.float32))


def test_an_item_that_only_ignored_users_touched_has_no_support() -> None:
    seq = log([[0, 1, 0], [1, 2], [2] * 90], 3)
    known = factorise(seq, dim=2, seed=0, weights=np.array([0, 0.25, 1], np.float32))
    assert known.support.tolist() == [0, 1, limits.PER_ITEM + 1]
    assert not known.target[0].any()


@pytest.mark.parametrize("method", METHODS)
def test_what_a_user_of_weight_zero_did_changes_nothing(world: World, method: str) -> None:
    few = world.sequences.keep(world.sequences.users < 60)
    believed = np.append(np.ones(few.n_users, np.float32), np.float32(0))
    one, two = (
        factorise(
            with_user(few, did), dim=8, seed=0, recipe=Recipe(method=method), weights=believed
        )
        for did in (np.arange(few.n_items), np.zeros(1, int))
    )
    np.testing.assert_array_equal(one.target, two.target)
    np.testing.assert_array_equal(one.support, two.support)


@pytest.fixture(scope="module")
def shop() -> World:
    """Chains of eleven: the ten nearest of an item are the others of its chain."""
    return plant(chains=24, length=11, users=1500)


def neighbours(seq: Sequences, method: str = "covisits") -> np.ndarray:
    target = factorise(seq, dim=24, seed=0, recipe=Recipe(method=method)).target
    scores = target @ target.T
    np.fill_diagonal(scores, -2)
    return np.sort(np.argsort(-scores, axis=1)[:, :10], axis=1)


def attacked(shop: World) -> tuple[Sequences, np.ndarray]:
    """Ten thousand events put an unknown item beside popular ones; whose lists must stay."""
    support = shop.sequences.support
    favourites = [int(np.where(shop.chain == c, support, -1).argmax()) for c in range(5)]
    elsewhere = np.flatnonzero(shop.chain >= 5)
    target = elsewhere[support[elsewhere].argmin()]
    items = np.full(10_000, target)
    items[::2] = np.resize(favourites, 5000)
    bystanders = np.setdiff1d(np.arange(shop.sequences.n_items), [target, *favourites])
    return with_user(shop.sequences, items), bystanders


def changed(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.mean((before != after).any(axis=1)))


@pytest.mark.parametrize("method", ["covisits", "als", "bpr"])
def test_one_user_cannot_move_the_neighbours_of_others(shop: World, method: str) -> None:
    spoiled, bystanders = attacked(shop)
    before = neighbours(shop.sequences, method)[bystanders]
    honest = with_user(shop.sequences, np.arange(8))
    noise = changed(before, neighbours(honest, method)[bystanders])
    assert changed(before, neighbours(spoiled, method)[bystanders]) <= noise + 0.02


def test_without_bounds_one_user_moves_a_tenth_of_them(shop: World, monkeypatch) -> None:
    spoiled, bystanders = attacked(shop)
    for bound in ("CAP", "PER_PAIR"):
        monkeypatch.setattr(limits, bound, 1e12)
    before = neighbours(shop.sequences)[bystanders]
    assert changed(before, neighbours(spoiled)[bystanders]) > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_log_is_left_as_it_was(world: World, method: str) -> None:
    seq = world.sequences.keep(world.sequences.users < 60)
    before = [np.copy(part) for part in astuple(seq)]
    factorise(seq, dim=8, seed=0, recipe=Recipe(method=method))
    for old, new in zip(before, astuple(seq), strict=True):
        np.testing.assert_array_equal(old, new)
