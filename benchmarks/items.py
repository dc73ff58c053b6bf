"""Made-up items to measure on: product-like ids and random vectors, the same at every run.

Everything is built below one folder, each part in a folder of its own that appears when it is
complete, so that a second run on the same folder finds it.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store import ItemStore

WIDTH, DIM, DIMS = 256, 128, (64, 128, 256)
SEED = 20
BRANDS = ("ACME", "LUMEN", "OAK", "TERRA", "VELO")
SIZES = ("S", "M", "L", "XL")


class Items(NamedTuple):
    """Ids (n strings) and their vectors at DIM, float32 [n, DIM], mapped: row i is ids[i]."""

    ids: pa.Array
    vectors: NDArray[np.float32]


def made_items(folder: Path, n: int) -> Items:
    """Return n items, and leave `folder`/store: an ItemStore that has published them."""
    made(folder / "store", lambda draft: _publish(draft, n))
    floor = made(folder / "floor", lambda draft: _write_floor(draft, n))
    mapped = np.memmap(floor / "vectors.f32", np.float32, "r", shape=(n, DIM))
    return Items(pa.array(item_ids(n)), mapped.view(np.ndarray))


def made(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return the folder, built first if it is not there; half a build is never taken for one."""
    if not folder.exists():
        draft = folder.with_name(f"{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        build(draft)
        draft.rename(folder)
    return folder


def item_ids(n: int) -> list[str]:
    """Return n different ids of 10 to 19 characters, in no order: ASINs, stock numbers, SKUs."""
    return [_item_id(row, row * 2654435761 % 2**32) for row in range(n)]  # odd: no number twice


def _item_id(row: int, number: int) -> str:
    if row % 3 == 0:
        return f"B0{number:08X}"
    if row % 3 == 1:
        return f"SKU-{number:010d}"
    return f"{BRANDS[number % len(BRANDS)]}-{number:010d}-{SIZES[number // 7 % len(SIZES)]}"


def wide_vectors(n: int) -> NDArray[np.float32]:
    """Return float32 [n, WIDTH], random directions of random lengths."""
    return np.random.default_rng(SEED).standard_normal((n, WIDTH), np.float32)


def _publish(folder: Path, n: int) -> None:
    ItemStore.create(folder).publish_vectors(item_ids(n), wide_vectors(n), dims=DIMS)


def _write_floor(folder: Path, n: int) -> None:
    """Write what a look-up at DIM must answer, worked out without the store."""
    head = wide_vectors(n)[:, :DIM]
    (head / np.linalg.norm(head, axis=1, keepdims=True)).tofile(folder / "vectors.f32")
