"""Killed processes, a full disk, a folder that cannot be written: an error or a repair, never a
wrong vector."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from store import BadPack, ItemStore
from store.doctor import examine
from tests.store.shelf import IDS_OF_TURNED, publish, publish_turned, turned, work_for_ever

IDS = [f"i{number}" for number in range(3000)]


def check_whole(uri: str, at_least: int) -> int:
    """Read all of the visible release, prove that it is of one piece, return its number."""
    store = ItemStore.open(uri)
    number = int(store.release.name.removeprefix("r"))
    assert number >= at_least
    for role in ("context", "target"):
        answer = store.get_item_vectors(IDS_OF_TURNED, role=role)
        np.testing.assert_allclose(answer, np.tile(turned(number), (300, 1)), atol=1e-6)
    return number


@pytest.mark.parametrize("kills", [8, pytest.param(60, marks=pytest.mark.slow)])
def test_a_kill_at_any_point_leaves_the_last_complete_release(tmp_path: Path, kills: int):
    uri, chance = str(tmp_path / "store"), random.Random(3)
    publish_turned(ItemStore.create(uri), 1)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.store.shelf", "lancedb", "lance"])
    number = 1
    for kill in range(kills):
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=work_for_ever, args=(uri, theirs))
        worker.start()
        theirs.close()
        point = ("publish", "add", "compact", "pack")[kill % 4]
        while ours.recv() != point:  # EOFError: the worker could not go on where one was killed
            pass
        ours.poll(chance.uniform(0, 0.04))  # into the middle of it, or of the next thing
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        number = check_whole(uri, number)
    assert number > kills / 2
    publish_turned(ItemStore.open(uri), number + 1)
    assert all(finding.ok for finding in examine(ItemStore.open(uri).tables))


def run(script: str, *arguments: object, **environment: str) -> str:
    """Run a script in a process of its own, which may give up rights and room; its last line."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    return (done.stderr or done.stdout).rstrip().splitlines()[-1]


READ_WITHOUT_ROOM = """
import resource, sys
from store import ItemStore
store = ItemStore.open(sys.argv[1])
ids = store.item_matrix(4).ids
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
assert len(store.get_item_vectors(ids, 4)) == len(ids)
store.get_item_vectors(ids, 16)
"""


def test_a_pack_that_finds_no_room_is_an_error_and_leaves_nothing(tmp_path: Path):
    publish(tmp_path / "store", IDS)
    ItemStore.open(tmp_path / "store").get_item_vectors(IDS, 4)
    end = run(READ_WITHOUT_ROOM, tmp_path / "store")
    assert re.search(r"BadPack: .*fused_target\.16\.f32 cannot be written: File too large", end)
    (folder,) = (tmp_path / "store" / "packs").glob("*/")
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["fused_target.4.f32", "ids.index", "names"]
    assert ItemStore.open(tmp_path / "store").get_item_vectors(IDS, 16).shape == (3000, 16)


PUBLISH_WITHOUT_ROOM = """
import resource, sys
import numpy as np
from store import ItemStore
store = ItemStore.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
store.publish_vectors(range(3000), np.ones((3000, 16)))
"""


def test_a_release_that_finds_no_room_is_not_made(tmp_path: Path):
    publish(tmp_path / "store", IDS)
    before = ItemStore.open(tmp_path / "store").get_item_vectors(IDS, 8)
    assert "File too large" in run(PUBLISH_WITHOUT_ROOM, tmp_path / "store")
    store = ItemStore.open(tmp_path / "store")
    assert store.release.name == "r1"
    np.testing.assert_array_equal(store.get_item_vectors(IDS, 8), before)
    assert store.publish_vectors(IDS, np.ones((len(IDS), 16))).name == "r2"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB of its own, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_an_error_and_never_a_wrong_vector(small_disk: Path):
    store = ItemStore.create(small_disk / "store")
    rng = np.random.default_rng(0)
    last = None
    with pytest.raises((OSError, BadPack), match="No space left on device"):  # noqa: PT012
        for _ in range(100):
            vectors = rng.standard_normal((len(IDS), 16)).astype(np.float32)
            store.publish_vectors(IDS, vectors)
            last = vectors
            store.get_item_vectors(IDS)
    assert last is not None
    shutil.rmtree(small_disk / "store" / "packs")
    found = ItemStore.open(small_disk / "store").get_item_vectors(IDS)
    np.testing.assert_allclose(found, last / np.linalg.norm(last, axis=1, keepdims=True), atol=1e-6)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name, suppress(PermissionError):
        os.chmod(name, stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
        yield Path(name)


READ_AS_NOBODY = """
import json, os, sys
from store import ItemStore
ids = json.loads(sys.argv[2])
ItemStore.open(sys.argv[1]).get_item_vectors(ids, 8)  # all modules are loaded, this user's or not
os.setuid(65534)
print(json.dumps(ItemStore.open(sys.argv[1]).get_item_vectors(ids, 8).tolist()))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_who_may_only_read_keeps_packs_of_its_own(public: Path):
    publish(public / "store", IDS[:50])
    cache = public / "cache"
    cache.mkdir()
    os.chown(cache, 65534, 65534)
    asked = (READ_AS_NOBODY, public / "store", json.dumps(IDS[:50]))
    answer = np.array(json.loads(run(*asked, XDG_CACHE_HOME=str(cache))), np.float32)
    assert list(cache.glob("itemnest/*/packs/r1-*/ids.index"))
    found = ItemStore.open(public / "store").get_item_vectors(IDS[:50], 8)
    np.testing.assert_array_equal(answer, found)
    end = run(*asked, XDG_CACHE_HOME=str(public))
    assert "BadPack: " in end
    assert "cannot be written: Permission denied; make room, or" in end
