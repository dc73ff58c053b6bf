"""What users of one version find among items of another."""

import numpy as np
import pytest

from alignment.consumer import RECENCY, by_cosine, figures, rank, trial
from alignment.interactions import Split
from alignment.space import ItemSpace, Views
from alignment.versions import Version, cross_version
from tests.alignment.world import World


def version(views: Views, recency: float = RECENCY) -> Version:
    return Version(views.fused_context, views.fused_target, recency)


def test_each_version_is_read_with_its_own_recency(split: Split, views: Views) -> None:
    cases = trial(split, on="test")
    matrix = cross_version(version(views, 0.9), version(views, 0.1), cases, dim=16)
    assert matrix["old x old"] == matrix["old x new"] != matrix["new x old"]
    slow = rank(by_cosine(views.fused_context, views.fused_target, dim=16), cases.faded(0.9))
    assert matrix["old x old"] == figures(slow.masked)["R@10"]


def test_a_version_is_compatible_with_itself(split: Split, views: Views) -> None:
    same = version(views)
    matrix = cross_version(same, same, trial(split, on="test"), dim=16)
    assert matrix["ratio"] == 1
    assert len({matrix[f"{a} x {b}"] for a in ("old", "new") for b in ("old", "new")}) == 1


def test_a_turned_version_is_not_compatible(split: Split, views: Views) -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((32, 32)))
    old = version(views)
    context, target = ((rows @ turn).astype(np.float32) for rows in old[:2])
    new = Version(context, target, old.recency)
    matrix = cross_version(old, new, trial(split, on="test"), dim=32)
    assert matrix["new x new"] == pytest.approx(matrix["old x old"], abs=0.01)
    assert matrix["ratio"] < 0.5


def test_evidence_turned_into_the_frame_is_compatible(
    world: World, split: Split, space: ItemSpace, views: Views
) -> None:
    newer = space.views(world.content, space.factorise(world.sequences))
    old, new = version(views), version(newer)
    matrix = cross_version(old, new, trial(split, on="validation"), dim=32)
    assert matrix["ratio"] > 0.9
