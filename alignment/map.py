"""The map from content to behaviour: what an item's collaborative rows would be, from its content.

It knows content rows and collaborative rows of the same items, both as arrays.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignment.collaborative import Collaborative
from matryoshka.prefix import Vectors, unit

RIDGE = 1.0
TRUST = 10.0  # an item of n events weighs n / (n + TRUST)


@dataclass(frozen=True, slots=True)
class Map:
    """Linear prediction of collaborative rows from content rows; float32 [d, dim] per role."""

    context: Vectors
    target: Vectors

    def __call__(self, content: Vectors) -> tuple[Vectors, Vectors]:
        """Predict unit rows for context and for target."""
        return solid(content @ self.context), solid(content @ self.target)


def fit_map(content: Vectors, known: Collaborative) -> Map:
    """Fit the map to items with support by ridge regression, those with more events the closer.

    content: float32 [n, d], row i of the item that row i of `known` [n, dim] is about.
    """
    warm = np.flatnonzero(known.support > 0)
    both = np.hstack([known.context[warm], known.target[warm]])
    weight = known.support[warm] / (known.support[warm] + TRUST)
    context, target = np.split(_ridge(content[warm], both, weight), 2, axis=1)
    return Map(context, target)


def _ridge(x: Vectors, y: Vectors, weight: NDArray[np.float64]) -> Vectors:
    weighted = x * weight[:, None]
    gram = weighted.T @ x + RIDGE * np.eye(x.shape[1])
    return np.linalg.solve(gram, weighted.T @ y).astype(np.float32)


def solid(rows: NDArray[np.floating[Any]]) -> Vectors:
    """Make unit rows of which a zero row becomes the first axis."""
    rows = unit(rows)
    rows[~rows.any(axis=1), 0] = 1
    return rows
