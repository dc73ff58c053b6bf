"""What `_lookup.c` offers. Arrays are C-contiguous; sizes are checked, values are trusted."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

def hash_ids(offsets: Any, data: Any, key: bytes, out: NDArray[np.uint64], /) -> None:
    """Write the hash of every string of an Arrow string array."""

def place(
    hashes: NDArray[np.uint64], displacements: NDArray[np.uint16], slots: NDArray[np.uint64], /
) -> bool:
    """Fill an index of zeros; False when two hashes are equal or too few slots are free."""

def find(
    ids: list[Any],
    key: bytes,
    displacements: NDArray[np.uint16],
    slots: NDArray[np.uint64],
    rows: NDArray[np.int64],
    /,
) -> int:
    """Write the row of every id, 0 for what is not there; return how many, -1 if one is no str."""

def gather(
    vectors: NDArray[Any],
    row_bytes: int,
    rows: NDArray[np.int64],
    out: NDArray[Any],
    seen: NDArray[np.uint8],
    shift: int,
    /,
) -> bool:
    """Copy rows; False, and nothing copied, when a row's block `row >> shift` is not seen."""

def checksums(
    data: NDArray[Any], block: int, blocks: NDArray[np.int64], out: NDArray[np.uint64], /
) -> None:
    """Write the checksum of every listed block of `block` bytes."""

def prefix_rows(
    vectors: NDArray[np.float32], width: int, out: NDArray[np.float32], dim: int, /
) -> None:
    """Write every row's first `dim` coordinates, rescaled to unit length."""
