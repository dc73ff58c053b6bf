"""A store in a bucket: read as in a folder, one writer, and no server that loses rows."""

import json
import multiprocessing
import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from store import ItemStore
from store.errors import BadTable, StoreLocked, UnfitStore, UnknownTable
from store.lease import object_lock
from store.lock import WriterLock
from store.objects import configuration, open_objects
from store.tables import Tables
from tests.store.buckets import Bucket, moto, seaweedfs
from tests.store.conftest import IDS
from tests.store.rivals import Race, Wrong, hold
from tests.store.shelf import items, vectors


@pytest.fixture(scope="module", params=["moto", pytest.param("seaweedfs", marks=pytest.mark.slow)])
def bucket(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bucket]:
    """A bucket of every server; what a test puts there lies below an address of its own."""
    serving = moto() if request.param == "moto" else seaweedfs(tmp_path_factory.mktemp("weed"))
    with serving as made:
        yield made


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def uri() -> str:
    return f"s3://bucket/{uuid.uuid4().hex}/store"


@pytest.fixture
def tables(bucket: Bucket, uri: str) -> Tables:
    return Tables(uri, bucket.options, lock_wait=0)


@contextmanager
def holder(tables: Tables, seconds: float = 1.0) -> Iterator[tuple[BaseProcess, Connection, int]]:
    """Another process that holds the store's lock, `seconds` longer than it lives."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    args = (tables.uri, tables.storage_options, seconds, theirs)
    process = context.Process(target=hold, args=args)
    process.start()
    theirs.close()  # so that its death ends the wait for it
    try:
        yield process, ours, ours.recv()
    finally:
        process.kill()
        process.join()


def test_a_store_in_a_bucket_is_published_read_and_rolled_back_as_in_a_folder(
    bucket: Bucket, uri: str, caches: Path
):
    made = ItemStore.create(uri, storage_options=bucket.options)
    first = made.publish_vectors(IDS, vectors(len(IDS)), dims=[4, 16])
    second = made.publish_vectors(IDS[:50], vectors(50, 1), dims=[4, 16])
    store = ItemStore.open(uri, storage_options=bucket.options)
    assert (first.name, second.name, store.release.name) == ("r1", "r2", "r2")
    np.testing.assert_allclose(store.get_item_vectors(IDS[:50]), vectors(50, 1), atol=1e-6)
    answer = store.sql("SELECT count(*) AS n FROM item_vectors")
    assert answer.to_pylist() == [{"n": 50}]
    assert store.rollback("r1").name == "r1"
    again = ItemStore.open(uri, storage_options=bucket.options)
    np.testing.assert_allclose(again.get_item_vectors(IDS), vectors(len(IDS)), atol=1e-6)
    assert again.tables.names() == ["item_vectors", "releases"]
    assert [path.name for path in caches.iterdir()] == ["itemnest"]


def test_tables_of_a_bucket_are_upserted_taken_back_and_tended(tables: Tables):
    old = tables.upsert("items", items(["a", "b"]))
    tables.upsert("items", items(["b", "c"]))
    with pytest.raises(BadTable, match="the write was taken back"):
        tables.append("items", items(["d", "a"]))
    tables.maintain({}, grace=timedelta(0))
    assert sorted(tables.read("items")["item_id"].to_pylist()) == ["a", "b", "c"]
    with pytest.raises(UnknownTable, match=r"has no version .* it was cleaned up"):
        tables.read("items", version=old)
    with pytest.raises(UnknownTable, match="has no table 'nope'; it has 'items'"):
        tables.read("nope")


def test_what_a_killed_writer_left_of_a_table_is_no_table(tables: Tables):
    open_objects(tables.uri, tables.storage_options).put("half.lance/data/1.lance", b"half")
    assert tables.names() == []
    tables.upsert("items", items(["a"]))
    assert tables.names() == ["items"]


def test_a_second_writer_is_told_who_the_first_is(tables: Tables):
    with holder(tables, seconds=10) as (_, channel, pid):
        with pytest.raises(StoreLocked, match=rf"written by process {pid} on .* waited"):
            tables.upsert("items", items(["a"]))
        channel.send(None)
        assert channel.recv() == "let go"
        assert tables.upsert("items", items(["a"])) == 1


def test_the_lock_of_a_dead_writer_is_taken_over(tables: Tables):
    with holder(tables) as (process, _, _):
        process.kill()
        process.join()
        assert tables.upsert("items", items(["a"])) == 1


def test_a_writer_that_was_taken_for_dead_writes_no_more_and_frees_nothing(tables: Tables):
    with holder(tables) as (_, channel, pid):
        channel.send("write")
        assert channel.recv() == "still the holder"
        os.kill(pid, signal.SIGSTOP)
        with tables.lock():
            os.kill(pid, signal.SIGCONT)
            channel.send("write")
            assert "silent for 1 s or longer and another writer took the lock" in channel.recv()
            channel.send(None)
            assert channel.recv() == "let go"
            with tables.lock():
                assert lock_object(tables)["pid"] == os.getpid()


def test_a_writer_whose_lock_object_was_removed_writes_no_more(tables: Tables):
    lock = object_lock(tables.uri, tables.storage_options, wait=0, seconds=0.1)
    with lock:
        open_objects(tables.uri, tables.storage_options).delete(".lock")
        with pytest.raises(StoreLocked, match="another writer took the lock"):
            enter_often(lock)  # a renewal that was just under way may count for a moment
    with tables.lock():
        assert lock_object(tables)["pid"] == os.getpid()


@pytest.mark.slow  # it asks for 10 s
def test_a_writer_whose_object_store_is_gone_writes_no_more(uri: str):
    with ExitStack() as held:
        with moto() as gone:
            lock = object_lock(uri, gone.options, wait=0, seconds=1)
            held.enter_context(lock)
        with pytest.raises(StoreLocked, match=r"could not be renewed .* when the object store"):
            enter_often(lock)


def test_one_process_may_take_the_lock_again_and_names_itself_in_it(tables: Tables):
    with tables.lock(), tables.lock():
        assert lock_object(tables)["pid"] == os.getpid()
    assert lock_object(tables) == {}


def test_the_lock_is_renewed_while_it_is_held(tables: Tables):
    with object_lock(tables.uri, tables.storage_options, wait=0, seconds=0.1):
        first = lock_object(tables)["beat"]
        assert any(lock_object(tables)["beat"] > first + 2 for _ in range(1000))


def test_four_writers_of_the_same_new_ids_add_none_twice(bucket: Bucket, uri: str):
    race = Race(uri, bucket.options, rounds=3, ids=200)
    rows, _ = race.run(writers=4, readers=0)
    assert (len(rows), race.wrong(rows)) == (4 * 200, Wrong(0, 0))


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        (("HTTP_IF_NONE_MATCH",), "If-None-Match"),
        (("HTTP_IF_MATCH",), "If-Match"),
        (("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"), "If-None-Match"),
    ],
)
def test_a_server_that_ignores_conditions_is_refused_before_the_first_write(
    headers: tuple[str, ...], named: str, uri: str
):
    with moto(deaf_to=headers) as deaf:
        tables = Tables(uri, deaf.options)
        with pytest.raises(UnfitStore, match=f"ignores {named}: .* use an object store with"):
            tables.upsert("items", items(["a"]))
        assert tables.names() == []  # reading asks for no conditions
        assert open_objects(uri, deaf.options).list().collect() == []


def test_a_bucket_that_is_not_there_is_refused_with_what_to_check(bucket: Bucket):
    tables = Tables("s3://nobodys/store", bucket.options)
    with pytest.raises(UnfitStore, match=r"s3://nobodys/store cannot be written to: .* the bucket"):
        tables.upsert("items", items(["a"]))


@pytest.mark.filterwarnings("ignore")  # Lance, LanceDB and Python each warn of any fork
def test_a_forked_child_is_refused_and_does_not_free_its_parents_lock(tables: Tables):
    reading, writing = os.pipe()
    with tables.lock():
        child = os.fork()
        if child == 0:
            try:
                with tables.lock():
                    os.write(writing, b"the child has the lock")
            except UnfitStore as error:
                os.write(writing, str(error).encode())
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert b"this process was forked" in os.read(reading, 1000)
        assert lock_object(tables)["pid"] == os.getpid()
    os.close(reading)
    os.close(writing)


def test_the_options_of_lance_open_the_same_objects():
    lance = {"AWS_ACCESS_KEY_ID": "a", "allow_http": "true", "client_max_retries": "3"}
    assert configuration("s3", {**lance, "aws_endpoint": "http://x", "region": "eu-west-1"}) == {
        "aws_access_key_id": "a",
        "allow_http": "true",
        "aws_endpoint": "http://x",
        "region": "eu-west-1",
        "timeout": "10s",
    }
    google = {"service_account": "key.json", "google_storage_token": "t", "timeout": "99s"}
    assert configuration("gs", google) == {
        "service_account": "key.json",
        "google_bearer_token": "t",
        "timeout": "10s",
    }
    azure = {"account_name": "a", "azure_storage_account_key": "aGk="}
    assert configuration("az", azure) == {**azure, "timeout": "10s"}
    assert open_objects("az://container/a/b", azure).prefix == "a/b"


def test_an_address_of_another_kind_is_refused():
    with pytest.raises(
        ValueError, match="ftp://x: a store is a folder or an s3://, gs:// or az://"
    ):
        open_objects("ftp://x")


def enter_often(lock: WriterLock) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with lock:
            pass


def lock_object(tables: Tables) -> dict:
    objects = open_objects(tables.uri, tables.storage_options)
    return json.loads(bytes(objects.get(".lock").bytes()))
