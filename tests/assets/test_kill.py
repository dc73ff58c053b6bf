"""SIGKILL at random moments of a run: the next run ends with the same release, nothing doubled."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from assets.sample import write_sample
from assets.settings import write_default
from store import ItemStore, NoRelease

RUN = """
import sys, pathlib
from assets.run import materialize
sys.exit(not materialize(pathlib.Path(sys.argv[1])).succeeded)
"""


@pytest.mark.parametrize(
    "kills", [3, pytest.param(25, marks=pytest.mark.slow)], ids=["a few kills", "many kills"]
)
def test_a_run_killed_at_random_moments_ends_with_the_same_release(
    tmp_path: Path, kills: int
) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    write_sample(calm / "catalogue", items=150, users=200)
    write_default(calm / "itemnest.toml", store="store")
    shutil.copytree(calm, killed)
    started = time.monotonic()
    assert run(calm).wait() == 0
    whole = time.monotonic() - started

    reader = Poller(killed / "store")
    reader.start()
    chance = random.Random(7)
    for _ in range(kills):
        process = run(killed)
        # Waiting is the point: the moment of the kill is what varies.
        try:
            process.wait(chance.uniform(0.1, 1.0) * whole)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert run(killed).wait() == 0
    reader.stop()

    assert reader.faults == []
    one, two = ItemStore.open(calm / "store"), ItemStore.open(killed / "store")
    assert [release.name for release in two.releases()] == ["r1"]
    assert one.release.space_id == two.release.space_id
    mine, theirs = one.item_matrix(dim=256), two.item_matrix(dim=256)
    assert len(set(theirs.ids)) == len(theirs.ids)
    assert list(mine.ids) == list(theirs.ids)
    np.testing.assert_array_equal(mine.vectors, theirs.vectors)


class Poller(threading.Thread):
    """A reader that opens the store all along: it finds no release, or a whole one."""

    def __init__(self, store: Path) -> None:
        super().__init__(daemon=True)
        self.store, self.faults, self._stopped = store, [], threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(0.2):
            try:
                store = ItemStore.open(self.store)
                matrix = store.item_matrix(dim=32)
                norms = np.linalg.norm(matrix.vectors, axis=1)
                if len(set(matrix.ids)) != len(matrix.ids) or abs(norms - 1).max() > 1e-3:
                    self.faults.append(f"torn release {store.release.name}")
            except NoRelease:
                continue
            except Exception as error:
                self.faults.append(repr(error))

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def run(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder / "itemnest.toml")],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
