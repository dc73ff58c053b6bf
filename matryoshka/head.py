"""The nested head: one linear map whose output is good at every prefix.

It knows a weight matrix; training it is train.py's, what goes in and out is the caller's.
"""

from dataclasses import dataclass

import numpy as np

from matryoshka.prefix import Vectors, unit


@dataclass(frozen=True, slots=True)
class Head:
    """A linear map to nested vectors. weight: float32 [d, width]."""

    weight: Vectors

    def __call__(self, content: Vectors) -> Vectors:
        """Map float32 [n, d] to unit rows [n, width]; it looks at one row at a time."""
        return unit(content @ self.weight)


def identity(width: int) -> Head:
    """Make the head that changes nothing: training starts there, and ends there without events."""
    return Head(np.eye(width, dtype=np.float32))
