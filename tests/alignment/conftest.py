"""The planted world and a space fitted to it, made once."""

import pytest

from alignment.fit import fit
from alignment.improve import Fitted
from alignment.interactions import Split, leave_last_out
from alignment.space import ItemSpace, Views
from tests.alignment.world import DIMS, World, plant


@pytest.fixture(scope="session")
def world() -> World:
    return plant()


@pytest.fixture(scope="session")
def split(world: World) -> Split:
    return leave_last_out(world.sequences)


@pytest.fixture(scope="session")
def fitted(world: World, split: Split) -> Fitted:
    return fit(world.content, split, dims=DIMS, seed=0)


@pytest.fixture(scope="session")
def space(fitted: Fitted) -> ItemSpace:
    return fitted.space


@pytest.fixture(scope="session")
def views(world: World, fitted: Fitted) -> Views:
    return fitted.space.views(world.content, fitted.known, fitted.residuals)
