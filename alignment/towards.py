"""Turns a new space towards an older one, as near as its prefixes stay what they are.

A new space names its directions anew: whoever has learnt to read the old vectors would have to
begin from nothing. Rotating the coordinates of each granularity among themselves changes no inner
product of any published prefix, and brings the same items near to where they were. The two are
different spaces all the same, and must not be mixed in one comparison.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from alignment.fuse import Residuals
from alignment.rotate import procrustes
from alignment.space import ItemSpace, Views
from matryoshka.compaction import Basis
from matryoshka.head import Head
from matryoshka.prefix import Vectors


class Published(NamedTuple):
    """Trained vectors of some items: aligned, fused context and target, float32 [n, width] each."""

    aligned: Vectors
    context: Vectors
    target: Vectors

    @classmethod
    def of(cls, views: Views) -> "Published":
        """Return the trained ones of all views."""
        return cls(views.aligned, views.fused_context, views.fused_target)


def blockwise(source: Vectors, goal: Vectors, edges: Sequence[int]) -> Vectors:
    """Find the orthogonal [d, d] that brings source @ it closest to goal, a block at a time.

    edges: where blocks end, ascending, the last one d; what is in a block stays in it.
    """
    turn = np.zeros((edges[-1], edges[-1]), np.float32)
    for start, end in pairwise((0, *edges)):
        block = slice(start, end)
        turn[block, block] = procrustes(source[:, block], goal[:, block])
    return turn


def towards(
    space: ItemSpace, residuals: Residuals, now: Published, before: Published
) -> tuple[ItemSpace, Residuals]:
    """Turn a space, and residuals trained in it, so that `now` comes closest to `before`.

    The rows of both are the same items, of the same dims. The first coordinate of fused vectors is
    their reach (fuse.py), and stays.
    """
    one = blockwise(now.aligned, before.aligned, space.dims)
    both = blockwise(
        np.vstack([now.context, now.target])[:, 1:],
        np.vstack([before.context, before.target])[:, 1:],
        [dim - 1 for dim in space.dims],
    )
    turned = replace(
        space,
        head=Head(space.head.weight @ one),
        basis=Basis(space.basis.context @ both, space.basis.target @ both),
    )
    added = (part @ both for part in (residuals.context, residuals.target))
    return turned, Residuals(*(part.astype(np.float16).astype(np.float32) for part in added))
