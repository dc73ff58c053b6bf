"""Rotations between versions."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alignment.collaborative import Collaborative, factorise
from alignment.interactions import Split
from alignment.rotate import procrustes
from alignment.space import ItemSpace
from tests.alignment.world import World


def turned(known: Collaborative, seed: int) -> Collaborative:
    d = known.context.shape[1]
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))
    q = q.astype(np.float32)
    return Collaborative(known.context @ q, known.target @ q, known.support)


@given(st.integers(0, 10**6))
def test_a_known_rotation_is_recovered(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((40, 6)).astype(np.float32)
    q, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    np.testing.assert_allclose(procrustes(rows, (rows @ q).astype(np.float32)), q, atol=1e-3)


@given(st.integers(0, 10**6))
def test_rotated_evidence_is_turned_back(space: ItemSpace, split: Split, seed: int) -> None:
    known = space.factorise(split.train)
    back = space.align(turned(known, seed))
    np.testing.assert_allclose(back.context, known.context, atol=1e-3)
    np.testing.assert_allclose(back.target, known.target, atol=1e-3)


def test_alignment_changes_no_inner_product(space: ItemSpace, world: World) -> None:
    newer = factorise(world.sequences, dim=space.width, seed=9, recipe=space.recipe)
    back = space.align(newer)
    before, after = (known.context @ known.target.T for known in (newer, back))
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_items_may_have_moved_to_other_rows(space: ItemSpace, split: Split) -> None:
    known = space.factorise(split.train)
    order = np.random.default_rng(0).permutation(len(known.support))
    moved = Collaborative(known.context[order], known.target[order], known.support[order])
    back = space.align(turned(moved, 1), np.argsort(order))
    np.testing.assert_allclose(back.target, known.target[order], atol=1e-3)


def test_without_common_items_evidence_stays_as_it_is(space: ItemSpace, split: Split) -> None:
    known = space.factorise(split.train)
    gone = np.full(len(known.support), -1)
    np.testing.assert_array_equal(space.align(known, gone).context, known.context)
