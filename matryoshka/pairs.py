"""Positive pairs: rows that should be near each other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Pairs:
    """Row left[i] belongs to row right[i]; the pair is drawn in proportion to weight[i]."""

    left: NDArray[np.int32]
    right: NDArray[np.int32]
    weight: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.left)
