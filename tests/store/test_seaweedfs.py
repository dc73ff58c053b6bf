"""The race of four writers and two readers in full, on SeaweedFS: with the lock and without."""

import uuid
from collections.abc import Iterator

import pytest

from store.tables import Tables
from tests.store.buckets import Bucket, seaweedfs
from tests.store.rivals import Race, Wrong
from tests.store.shelf import Unlocked

pytestmark = pytest.mark.slow
ROUNDS, IDS = 20, 2000


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with seaweedfs(tmp_path_factory.mktemp("weed")) as made:
        yield made


@pytest.mark.parametrize("kind", [Tables, Unlocked])
def test_ids_that_four_writers_add_at_once_are_there_once_in_every_read(
    bucket: Bucket, kind: type[Tables]
):
    race = Race(f"s3://bucket/{uuid.uuid4().hex}", bucket.options, ROUNDS, IDS, kind)
    rows, reads = race.run(writers=4, readers=2)
    assert (len(rows), race.wrong(rows)) == ((ROUNDS + 1) * IDS, Wrong(0, 0))
    for versions, wrong in reads:
        assert wrong == Wrong(0, 0)
        assert versions > ROUNDS / 2  # they did read while versions came and went
