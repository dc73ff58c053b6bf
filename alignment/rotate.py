"""Rotations between two versions of the collaborative space.

It knows two tables whose rows are the same items; which items those are is the caller's business.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignment.collaborative import Collaborative
from matryoshka.prefix import Vectors


def procrustes(source: Vectors, goal: Vectors) -> Vectors:
    """Find the orthogonal matrix r, float32 [d, d], that brings source @ r closest to goal.

    source, goal: [n, d], of the same things row by row (Schönemann, Psychometrika 1966).
    """
    u, _, vt = np.linalg.svd(source.T.astype(np.float64) @ goal)
    return (u @ vt).astype(np.float32)


def onto(
    newer: Collaborative, context: Vectors, target: Vectors, rows: NDArray[np.integer[Any]]
) -> Collaborative:
    """Rotate newer evidence so that its `rows` come closest to the anchors context and target.

    context, target: float32 [a, d]; rows: int [a], where each anchor's item is in `newer`. One
    rotation serves both roles, so no inner product between newer vectors changes. Without an
    anchor that has support there is nothing to turn by, and `newer` is returned.
    """
    warm = newer.support[rows] > 0
    rows, context, target = rows[warm], context[warm], target[warm]
    if not len(rows):
        return newer
    rotation = procrustes(
        np.vstack([newer.context[rows], newer.target[rows]]), np.vstack([context, target])
    )
    return Collaborative(newer.context @ rotation, newer.target @ rotation, newer.support)
