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

WIDEST = 0.9
NOVELTY = 0.9


@dataclass(frozen=True, slots=True)
class Dial:
    """The warm/cold dial.

    share: content's part of the fused vector (1: content only); sharpness: training steps of the
    map (see map.py); n0: events at which behaviour and its prediction from content count the same;
    bound: the longest step behaviour may take away from that prediction, both of length 1;
    popularity, evenness: exponents of a target's reach (see Reach).
    """

    share: float
    sharpness: int
    n0: float
    popularity: float
    evenness: float
    bound: float = 1.0


@dataclass(frozen=True, slots=True)
class Reach:
    """How far an item's target vector reaches towards its direction: at most WIDEST.

    The rest of its unit length goes into a first coordinate that every context vector has at zero.
    So a cosine is an inner product with a target of that length: unit rows that still know what is
    popular, at every prefix.

    It grows with the item's events: as a power of their part of `most`, the greatest support at
    fitting time. A new item is treated as one of `novel` events, and keeps half of that after its
    first event, a third after its second. Where `evenness` is above 0, targets with little of their
    energy in the shortest prefix (down to `head`) reach further, so that it does not lose them.
    """

    novel: float
    most: float
    head: float
    shortest: int

    def __call__(self, target: Vectors, support: NDArray[np.int32], dial: Dial) -> Vectors:
        """Return the reach of unit rows [n, d], float32 [n, 1]."""
        n = support.astype(np.float64)[:, None]
        popular = np.minimum(1, (n * n + self.novel) / (n + 1) / self.most)
        head = np.linalg.norm(target[:, : self.shortest], axis=1, keepdims=True)
        even = self.head / np.maximum(head, self.head)
        return (WIDEST * popular**dial.popularity * even**dial.evenness).astype(np.float32)


def fit_reach(target: Vectors, support: NDArray[np.int32], *, shortest: int) -> Reach:
    """Treat new items like the item that nine of ten others stay behind."""
    warm = support[support > 0]
    novel, most = (float(np.quantile(warm, q)) if len(warm) else 1.0 for q in (NOVELTY, 1.0))
    head = np.linalg.norm(target[:, :shortest], axis=1)
    return Reach(novel, most, max(float(np.quantile(head, 0.1)), 1e-3), shortest)


def compacted(
    content: Vectors, known: Collaborative, mapping: Map, dial: Dial, dims: tuple[int, ...]
) -> tuple[Basis, Reach]:
    """Fit the order of energy, leaving one coordinate free, and the reach in that order."""
    context, target = joined(content, known, mapping, dial)
    basis = joint_basis(context, target, width=dims[-1] - 1)
    ordered = solid(target @ basis.target)
    return basis, fit_reach(ordered, known.support, shortest=dims[0] - 1)


def fused(
    content: Vectors, known: Collaborative, mapping: Map, dial: Dial, basis: Basis, reach: Reach
) -> tuple[Vectors, Vectors]:
    """Fuse content and behaviour into unit rows for context and target, energy in front."""
    context, target = joined(content, known, mapping, dial)
    context, target = solid(context @ basis.context), solid(target @ basis.target)
    length = reach(target, known.support, dial)
    return (
        np.hstack([np.zeros_like(length), context]),
        np.hstack([np.sqrt(1 - length**2), length * target]),
    )


def joined(
    content: Vectors, known: Collaborative, mapping: Map, dial: Dial
) -> tuple[Vectors, Vectors]:
    """Join [sqrt(share) content ; sqrt(1 - share) behaviour] for context and target: unit rows."""
    parts = np.sqrt(np.array([dial.share, 1 - dial.share], np.float32))
    context, target = (
        np.hstack([parts[0] * content, parts[1] * shrunk(p, c, known.support, dial)])
        for p, c in zip(mapping(content), (known.context, known.target), strict=True)
    )
    return context, target


def shrunk(
    predicted: Vectors, observed: Vectors, support: NDArray[np.int32], dial: Dial
) -> Vectors:
    """Go from the content prediction towards the observed row as far as the evidence allows."""
    trust = (support / (support + dial.n0))[:, None].astype(np.float32)
    step = trust * (observed - predicted)
    length = np.linalg.norm(step, axis=1, keepdims=True)
    return solid(predicted + step * np.minimum(1, dial.bound / np.maximum(length, 1e-12)))
