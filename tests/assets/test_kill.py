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
import pyarrow as pa
import pytest

from store import ItemStore

RUN = """
import sys, pathlib
from assets.run import materialize
sys.exit(not materialize(pathlib.Path(sys.argv[1])).succeeded)
"""


@pytest.mark.parametrize(
    "kills", [3, pytest.param(25, marks=pytest.mark.slow)], ids=["a few kills", "many kills"]
)
def test_a_run_killed_at_random_moments_ends_with_the_same_release(
    shop: Path, tmp_path: Path, kills: int
) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    shutil.copytree(shop, calm)
    change(calm / "catalogue")
    shutil.copytree(calm, killed)
    started = time.monotonic()
    assert run(calm).wait() == 0
    whole = time.monotonic() - started

    reader = Poller(killed / "store")
    reader.start()
    chance, landed = random.Random(7), 0
    while landed < kills:
        process = run(killed)
        try:  # the moment of the kill is what varies
            process.wait(chance.uniform(0.2, 1.0) * whole)
            break  # it was quicker than ever: nothing is left to kill
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            landed += 1
    assert landed
    assert run(killed).wait() == 0
    reader.stop()

    assert reader.faults == []
    assert reader.seen <= {"r1", "r2"}
    assert "r1" in reader.seen
    one, two = ItemStore.open(calm / "store"), ItemStore.open(killed / "store")
    assert [release.name for release in two.releases()] == [r.name for r in one.releases()]
    assert one.release.name == "r2"
    for name in ("item_vectors", "items", "rejected_items", "interactions"):
        mine, theirs = (contents(store, name) for store in (one, two))
        assert mine.equals(theirs), name


def change(catalogue: Path) -> None:
    """Leave out the last items and give the first ones another title."""
    file = catalogue / "items.jsonl"
    lines = file.read_text().splitlines()
    changed = [line.replace('"title": "', '"title": "New ') for line in lines[:20]]
    file.write_text("\n".join(changed + lines[20:-10]) + "\n")


def contents(store: ItemStore, name: str) -> pa.Table:
    """A pinned table by its values, in an order of its own."""
    rows = store.tables.read(name, version=store.release.tables[name])
    keys = {
        "interactions": ["user_id", "item_id", "timestamp"],
        "rejected_items": ["source", "row"],
    }
    order = keys.get(name, ["item_id"])
    return rows.sort_by([(key, "ascending") for key in order]).combine_chunks()


class Poller(threading.Thread):
    """A reader that opens the store all along and looks whether what it finds is whole."""

    def __init__(self, store: Path) -> None:
        super().__init__(daemon=True)
        self.store = store
        self.faults: list[str] = []
        self.seen: set[str] = set()
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(0.2):
            try:
                store = ItemStore.open(self.store)
                matrix = store.item_matrix(dim=32)
                items = contents(store, "items")["item_id"].to_pylist()
                norms = np.linalg.norm(matrix.vectors, axis=1)
                self.seen.add(store.release.name)
                if sorted(matrix.ids) != items or abs(norms - 1).max() > 1e-3:
                    self.faults.append(f"torn release {store.release.name}")
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
