"""The definition of "coarser": the first coordinates of a row, rescaled to unit length.

It knows arrays only, and imports nothing but numpy, so that the store can use it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def prefix(vectors: Vectors, dim: int) -> Vectors:
    """Keep the first `dim` coordinates of every row and rescale to unit length.

    vectors: float32 [n, d], 1 <= dim <= d. Returns float32 [n, dim]; all-zero rows stay zero.
    """
    d = vectors.shape[1]
    if not 1 <= dim <= d:
        raise ValueError(f"a prefix of {dim} does not fit {d}-dim vectors: choose 1..{d}")
    return unit(vectors[:, :dim])


def unit(vectors: NDArray[np.floating[Any]]) -> Vectors:
    """Rescale every row to unit length; all-zero rows stay zero."""
    wide = vectors.astype(np.float64)  # float32 squares underflow below 1e-19
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(norms > 0, norms, 1)).astype(np.float32)
