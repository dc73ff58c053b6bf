"""A small published store that tests only read."""

from pathlib import Path

import pytest

from store import ItemStore
from tests.store.shelf import publish

IDS = [f"id {number}" for number in range(60)] + [str(number) for number in range(60)]


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf") / "store"
    publish(folder, IDS)
    return folder


@pytest.fixture(scope="session")
def store(shelf: Path) -> ItemStore:
    return ItemStore.open(shelf)
