"""The item space: everything that turns content and behaviour into comparable vectors.

It is fitted once, kept as named arrays and a JSON-able description, and applied to any rows, also
of items that came later. It knows row order only; ids and storage are somebody else's.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from alignment import residuals, rotate
from alignment.collaborative import Collaborative, Recipe, factorise
from alignment.fuse import Dial, Residuals, fused, ordered
from alignment.interactions import Sequences
from alignment.map import Map
from alignment.whiten import Content, ContentBlock
from matryoshka.compaction import Basis
from matryoshka.head import Head
from matryoshka.prefix import Vectors, unit

Array = NDArray[Any]
FORMAT = 7  # raise it when the fields of ItemSpace, or what they mean, change
READING = ("recipe.recency", "steps", "spare")  # how a log is read, chosen anew for every one


@dataclass(frozen=True, slots=True)
class Views:
    """Unit rows [n, width] per view and role; row i is item i; none is zero, all are finite."""

    content: Vectors
    aligned: Vectors
    fused_context: Vectors
    fused_target: Vectors
    collaborative_context: Vectors
    collaborative_target: Vectors


@dataclass(frozen=True, slots=True)
class Anchors:
    """Behaviour at fitting time of the best supported items: the frame later evidence turns to."""

    rows: NDArray[np.int32]
    context: Vectors
    target: Vectors


@dataclass(frozen=True, slots=True)
class ItemSpace:
    """A fitted space. `dims` are the published granularities, the largest is the width.

    steps: how long residuals are trained in it (residuals.py); spare: whether what users have is
    spared by what they take, since they take things again (reading.py). They and the recency of
    histories are about the log that was read last (fit.py, `relearn`), so the ids do not depend on
    them.
    """

    dims: tuple[int, ...]
    seed: int
    block: ContentBlock
    head: Head
    recipe: Recipe
    dial: Dial
    map: Map
    basis: Basis
    steps: int
    spare: bool
    anchors: Anchors

    @property
    def width(self) -> int:
        """The largest granularity: how wide every view is."""
        return max(self.dims)

    @property
    def recency(self) -> float:
        """What an event of a history weighs of the next one, for consumer A."""
        return self.recipe.recency

    def views(
        self,
        content: Content,
        collaborative: Collaborative | None,
        residuals: Residuals | None = None,
    ) -> Views:
        """Make the vectors of items from their content and their evidence, turned to this frame.

        Where there is none (support 0), behaviour is predicted from content, in the collaborative
        view too. residuals: what `learn` made of the same evidence; fused vectors are worse without
        them, and still comparable. ValueError for evidence about another number of items.
        """
        known = collaborative or nothing(len(content), self.width)
        if len(known.support) != len(content):
            raise ValueError(
                f"{len(known.support)} rows of evidence for {len(content)} items: give one each"
            )
        block = self.block(content)
        shown = self.block.shown(block)
        context, target = self.map(shown)
        warm = known.support[:, None] > 0
        ready = ordered(block, known, self.map, self.dial, self.basis)
        rows = (
            shown,
            self.head(shown),
            *fused(*ready, known.support, self.dial, residuals),
            np.where(warm, known.context, context),
            np.where(warm, known.target, target),
        )
        return Views(*(publishable(part, min(self.dims)) for part in rows))

    def factorise(self, seq: Sequences) -> Collaborative:
        """Factorise a newer log by the recipe of this space and turn it into its frame."""
        return self.align(factorise(seq, dim=self.width, seed=self.seed, recipe=self.recipe))

    def learn(self, content: Content, known: Collaborative, seq: Sequences) -> Residuals:
        """Train what a log adds to the fused vectors of its items, as long as was found best.

        known: the evidence of the same log, turned to this frame.
        """
        ready = ordered(self.block(content), known, self.map, self.dial, self.basis)
        return self.train(*ready, seq, steps=self.steps)

    def train(self, context: Vectors, target: Vectors, seq: Sequences, *, steps: int) -> Residuals:
        """Train residuals of ordered rows as this space reads them (residuals.py)."""
        return residuals.train(
            context,
            target,
            seq,
            self.dims,
            recency=self.recency,
            dial=self.dial,
            seed=self.seed,
            spare=self.spare,
            schedule=replace(residuals.DEFAULT_SCHEDULE, steps=steps),
        )

    def align(
        self, newer: Collaborative, rows: NDArray[np.integer[Any]] | None = None
    ) -> Collaborative:
        """Rotate newer evidence into this space's collaborative frame.

        rows[i] is where the item that was row i at fitting time is now, -1 if it is gone; leave it
        out while the first rows are the same items.
        """
        anchors = self.anchors
        now = anchors.rows if rows is None else np.asarray(rows)[anchors.rows]
        here = (now >= 0) & (now < len(newer.support))
        return rotate.onto(newer, anchors.context[here], anchors.target[here], now[here])

    def description(self) -> dict[str, Any]:
        """Return everything chosen, JSON-able."""
        scalars: dict[str, Any] = {
            "format": FORMAT,
            "norm": "every published prefix is a unit row",
        }
        for name, value in _leaves(self):
            if not isinstance(value, np.ndarray):
                scalars[name] = list(value) if isinstance(value, tuple) else value
        return scalars

    def arrays(self) -> dict[str, Array]:
        """Return everything learnt, row-major: float32, but for row and column numbers (int32).

        Row-major matters: safetensors writes the memory of an array as it lies, whatever its order.
        """
        return {
            name: np.ascontiguousarray(value)
            for name, value in _leaves(self)
            if isinstance(value, np.ndarray)
        }

    @classmethod
    def restore(cls, arrays: dict[str, Array], description: dict[str, Any]) -> "ItemSpace":
        """Rebuild the space that gave these arrays and this description.

        ValueError if another version of this package gave them.
        """
        if description.get("format") != FORMAT:
            raise ValueError(
                f"the space is of format {description.get('format')}, this version reads {FORMAT}: "
                "materialize again, or read it with the version that made it"
            )
        return _rebuild(cls, {**description, "dims": tuple(description["dims"]), **arrays}, "")

    @property
    def space_id(self) -> str:
        """Digest of all but the order of energy and how a log is read.

        Vectors of another one must not be compared.
        """
        return self._digest(but="basis.")

    @property
    def basis_id(self) -> str:
        """Digest of all but how a log is read: prefixes may be compared too."""
        return self._digest(but=None)

    def _digest(self, but: str | None) -> str:
        fixed = {name: v for name, v in self.description().items() if name not in READING}
        digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode())
        for name, array in sorted(self.arrays().items()):
            if but is None or not name.startswith(but):
                digest.update(f"{name} {array.dtype} {array.shape} ".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _leaves(part: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(part):
        value, path = getattr(part, field.name), name + field.name
        if is_dataclass(value):
            yield from _leaves(value, path + ".")
        else:
            yield path, value


def _rebuild(kind: type, leaves: dict[str, Any], name: str) -> Any:
    hints = get_type_hints(kind)
    parts = (
        _rebuild(hints[field.name], leaves, f"{name}{field.name}.")
        if is_dataclass(hints[field.name])
        else leaves[name + field.name]
        for field in fields(kind)
    )
    return kind(*parts)


def nothing(n: int, dim: int) -> Collaborative:
    """Make the evidence about n items that nobody touched."""
    zeros = np.zeros((n, dim), dtype=np.float32)
    return Collaborative(zeros, zeros, np.zeros(n, dtype=np.int32))


def publishable(rows: Vectors, shortest: int) -> Vectors:
    """Make unit rows of which no prefix from `shortest` on vanishes."""
    rows = unit(rows)
    rows[np.linalg.norm(rows[:, :shortest], axis=1) < 1e-4, 0] += 1e-3
    return unit(rows)
