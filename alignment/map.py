"""The map from content to behaviour: what an item's collaborative rows would be, from its content.

It knows content rows and collaborative rows of the same items, both as arrays.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignment.collaborative import Collaborative
from matryoshka.loss import nested_info_nce
from matryoshka.prefix import Vectors, unit
from matryoshka.train import reproducible

RIDGE = 1.0
TRUST = 10.0  # an item of n events weighs n / (n + TRUST)
BATCH, RATE, TEMPERATURE = 512, 3e-3, 0.07


@dataclass(frozen=True, slots=True)
class Map:
    """Linear prediction of collaborative rows from content rows; float32 [d, dim] per role."""

    context: Vectors
    target: Vectors

    def __call__(self, content: Vectors) -> tuple[Vectors, Vectors]:
        """Predict unit rows for context and for target."""
        return solid(content @ self.context), solid(content @ self.target)


def fit_map(content: Vectors, known: Collaborative, *, steps: int, seed: int) -> Map:
    """Fit the map to items with support by least squares, then `steps` of telling items apart.

    The steps serve items with some events, whose own row they teach the map to find again; they
    cost items with none, of which it knows only the content.
    """
    warm = np.flatnonzero(known.support > 0)
    rows, both = content[warm], (known.context[warm], known.target[warm])
    weight = known.support[warm] / (known.support[warm] + TRUST)
    context, target = np.split(_ridge(rows, np.hstack(both), weight), 2, axis=1)
    if not steps or not len(warm):
        return Map(context, target)
    with reproducible():
        return Map(
            _sharpened(context, both[0], rows, weight, steps=steps, seed=seed),
            _sharpened(target, both[1], rows, weight, steps=steps, seed=seed),
        )


def _ridge(x: Vectors, y: Vectors, weight: NDArray[np.float64]) -> Vectors:
    weighted = x * weight[:, None]
    gram = weighted.T @ x + RIDGE * np.eye(x.shape[1])
    return np.linalg.solve(gram, weighted.T @ y).astype(np.float32)


def _sharpened(
    start: Vectors,
    goal: Vectors,
    rows: Vectors,
    weight: NDArray[np.float64],
    *,
    steps: int,
    seed: int,
) -> Vectors:
    """Train the map so that an item's prediction is nearest its own row among many."""
    rng, chance = np.random.default_rng(seed), np.cumsum(weight) / weight.sum()
    x, y = torch.from_numpy(rows), torch.from_numpy(goal)
    matrix = torch.from_numpy(start.copy()).requires_grad_()
    optimiser = torch.optim.Adam([matrix], lr=RATE)
    for _ in range(steps):
        drawn = np.unique(np.searchsorted(chance, rng.random(BATCH)).clip(max=len(rows) - 1))
        loss = nested_info_nce(
            x[drawn] @ matrix,
            y[drawn],
            [y.shape[1]],
            temperatures=torch.tensor([TEMPERATURE]),
            log_popularity=torch.zeros(len(drawn)),
            forbidden=torch.zeros(len(drawn), len(drawn), dtype=torch.bool),
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return matrix.detach().numpy()


def solid(rows: NDArray[np.floating[Any]]) -> Vectors:
    """Make unit rows of which a zero row becomes the first axis."""
    rows = unit(rows)
    rows[~rows.any(axis=1), 0] = 1
    return rows
