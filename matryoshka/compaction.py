"""Linear maps that put the energy of a vector table first, jointly over two roles.

It knows two tables that are compared by inner product, and nothing of what they mean.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryoshka.prefix import Vectors

RELATIVE_RANK = 1e-5


@dataclass(frozen=True, slots=True)
class Basis:
    """A change of basis per role, both float32 [d, width].

    The inner products of context rows @ .context with target rows @ .target are those of the rows
    they came from while width covers the rank, and every prefix approximates them best.
    """

    context: Vectors
    target: Vectors


def joint_basis(context: Vectors, target: Vectors, *, width: int) -> Basis:
    """Find the singular directions of context @ target.T, strongest first, shared by both roles.

    context, target: float32 [n, d]. Columns past the rank are zero.
    """
    left, right = _root(context), _root(target)
    u, s, vt = np.linalg.svd(left @ right.T)
    k = min(int(np.count_nonzero(s > RELATIVE_RANK * max(s[0], 1e-30))), width)
    u, s, v = u[:, :k], s[:k], vt[:k].T
    sign = np.where(u[np.abs(u).argmax(axis=0), np.arange(k)] < 0, -1.0, 1.0)
    scale = sign / np.sqrt(s)
    return Basis(_padded(right.T @ (v * scale), width), _padded(left.T @ (u * scale), width))


def _root(table: Vectors) -> NDArray[np.float64]:
    """Return a square r with r.T @ r = table.T @ table."""
    values, vectors = np.linalg.eigh((table.T @ table).astype(np.float64))
    return np.sqrt(np.maximum(values, 0))[:, None] * vectors.T


def _padded(matrix: NDArray[np.floating[Any]], width: int) -> Vectors:
    padded = np.zeros((matrix.shape[0], width), dtype=np.float32)
    padded[:, : matrix.shape[1]] = matrix
    return padded
