"""One small shop, materialized once for all tests that read a released store."""

import os
import secrets
from pathlib import Path

# Before numpy is imported: on two busy cores a second thread makes small decompositions 4 times
# slower, and the tests have many of them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Before Ray is imported, which reads them then: no reports, and a token outside the home folder.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

import pytest
from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("nightly", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Files of few tests that take a minute or more. They start first, or the other cores wait for one
# of them at the end: `make test` leaves the order of files as it is here.
LONGEST = ("test_quality.py", "test_kill.py", "test_add.py", "test_dagster_ui.py", "test_ray.py")

DATASETS = Path(__file__).resolve().parents[2] / "shared" / "datasets"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    first = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path.name, len(first)))


@pytest.fixture(scope="session")
def datasets() -> Path:
    """The folder of real catalogues; tests that need it say so when it is absent."""
    if not DATASETS.is_dir():
        pytest.skip(f"no real catalogues: {DATASETS} does not exist")
    return DATASETS


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a generated catalogue, an itemnest.toml and a store holding release r1."""
    from assets.run import materialize
    from assets.sample import write_sample
    from assets.settings import write_default

    folder = tmp_path_factory.mktemp("shop")
    write_sample(folder / "catalogue", items=240, users=400)
    settings_file = write_default(folder / "itemnest.toml", store="store")
    outcome = materialize(settings_file)
    assert outcome.succeeded, outcome.failures
    return folder
