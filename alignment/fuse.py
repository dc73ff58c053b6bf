"""Fusion of frozen content with behaviour: shrinkage, the warm/cold dial, and reach.

It knows content rows and collaborative rows of the same items, both as arrays.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignment.collaborative import Collaborative
from alignment.map import Map, solid
from matryoshka.compaction import Basis, joint_basis
from matryoshka.prefix import Vectors

REACH = 0.5  # of a target that is known
OPPOSITE = 1e-3  # what is left of a row that went towards its opposite


@dataclass(frozen=True, slots=True)
class Dial:
    """The warm/cold dial.

    novelty: the reach of a target without events, over that of one which is known (see reach),
    which is chosen on validation; share: content's part of the fused vector (1: content only);
    n0: events at which behaviour and its prediction from content count the same; bound: the longest
    step behaviour may take away from a prediction of length 1, and the longest residual.
    """

    novelty: float = 1.1
    share: float = 1 / 3
    n0: float = 10.0
    bound: float = 1.0


@dataclass(frozen=True, slots=True)
class Residuals:
    """What training on the log adds to the fused rows of each role (residuals.py).

    float32 [n, d], zero for items without events.
    """

    context: Vectors
    target: Vectors


def compacted(
    content: Vectors, known: Collaborative, mapping: Map, dial: Dial, *, width: int
) -> Basis:
    """Fit the order of energy, leaving one coordinate free for the reach.

    content: float32 [n, c]; known: [n, dim]; the basis has at most width - 1 columns.
    """
    return joint_basis(*joined(content, known, mapping, dial), width=width - 1)


def ordered(
    content: Vectors, known: Collaborative, mapping: Map, dial: Dial, basis: Basis
) -> tuple[Vectors, Vectors]:
    """Fuse content and behaviour into unit rows for context and target, energy in front.

    content: float32 [n, c]; known: [n, dim]; both results: float32 [n, width - 1].
    """
    context, target = joined(content, known, mapping, dial)
    return solid(context @ basis.context), solid(target @ basis.target)


def fused(
    context: Vectors,
    target: Vectors,
    support: NDArray[np.int32],
    dial: Dial,
    residuals: Residuals | None = None,
) -> tuple[Vectors, Vectors]:
    """Add residuals to ordered rows [n, d] and give targets their reach: unit rows [n, d + 1].

    A target's row is what it reaches towards its direction, and the rest of its unit length lies in
    a first coordinate that every context vector has at zero. So a cosine is an inner product with a
    target of that length, at every prefix (Bachrach et al., RecSys 2014): targets may differ in how
    easily they are found, and every one is still a unit row.
    """
    if residuals:
        context, target = solid(context + residuals.context), solid(target + residuals.target)
    length = reach(support, dial)
    return (
        np.hstack([np.zeros_like(length), context]),
        np.hstack([np.sqrt(1 - length**2), length * target]),
    )


def reach(support: NDArray[np.int32], dial: Dial) -> Vectors:
    """Return how far targets of so many events reach, float32 [n, 1]: new ones further.

    Half of what a new item has more is left after its first event, a third after its second.
    """
    more = (dial.novelty - 1) / (1 + support.astype(np.float64)[:, None])
    return (REACH * (1 + more)).astype(np.float32)


def joined(
    content: Vectors, known: Collaborative, mapping: Map, dial: Dial
) -> tuple[Vectors, Vectors]:
    """Join [sqrt(share) content ; sqrt(1 - share) behaviour] for context and target.

    Unit rows, but for items without content, whose part of it is zero.
    """
    parts = np.sqrt(np.array([dial.share, 1 - dial.share], np.float32))
    context, target = (
        np.hstack([parts[0] * content, parts[1] * shrunk(p, c, known.support, dial)])
        for p, c in zip(mapping(content), (known.context, known.target), strict=True)
    )
    return context, target


def shrunk(
    predicted: Vectors, observed: Vectors, support: NDArray[np.int32], dial: Dial
) -> Vectors:
    """Go from the content prediction towards the observed row as far as the evidence allows.

    A row turns by a right angle at most, from nothing without events on, and steadily with them.
    Only where the two are opposite is there no way between them: that row stays where it was.
    """
    trust = (support / (support + dial.n0))[:, None].astype(np.float32)
    step = trust * (observed - predicted)
    length = np.linalg.norm(step, axis=1, keepdims=True)
    moved = predicted + step * np.minimum(1, dial.bound / np.maximum(length, 1e-12))
    lost = np.linalg.norm(moved, axis=1, keepdims=True) < OPPOSITE
    return solid(np.where(lost, predicted, moved))
