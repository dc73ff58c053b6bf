"""Content vectors: each modality centred and power-whitened, joined into one block of unit rows.

It knows encoder outputs as arrays with a bit per row that says whether the item has the modality.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from matryoshka.prefix import Vectors, unit

MAX_DIRECTIONS = 256
RELATIVE_FLOOR = 1e-5
RIDGE = 1.0
Bits = NDArray[np.bool_]
MODALITIES = ("text", "image", "multimodal")


class Encoded(NamedTuple):
    """One modality of n items: outputs of its encoder [n, d], and who has them.

    A modality that nobody has may be zero wide. Rows without it are ignored.
    """

    vectors: Vectors
    has: Bits

    @classmethod
    def none(cls, n: int) -> "Encoded":
        """Return a modality that none of n items has."""
        return cls(np.zeros((n, 0), np.float32), np.zeros(n, bool))


@dataclass(frozen=True, slots=True)
class Content:
    """Encoder outputs of n items, by what was read: texts, images, or both at once."""

    text: Encoded
    image: Encoded
    multimodal: Encoded

    def __post_init__(self) -> None:
        sizes = [len(part) for encoded in self.parts for part in encoded]
        if len(set(sizes)) != 1:
            raise ValueError(f"parts of {sizes} rows: every modality and its bits must be as long")

    def __len__(self) -> int:
        return len(self.text.vectors)

    @property
    def parts(self) -> tuple[Encoded, Encoded, Encoded]:
        """The modalities in the order of MODALITIES."""
        return self.text, self.image, self.multimodal


@dataclass(frozen=True, slots=True)
class Whitening:
    """x -> unit((x - mean) @ directions * variance^(-power / 2)); directions [d, k]."""

    mean: Vectors
    directions: Vectors
    variance: Vectors
    power: float

    def __call__(self, rows: Vectors) -> Vectors:
        """Make unit rows [n, k]."""
        scale = np.float32(-self.power / 2)
        return unit(((rows - self.mean) @ self.directions) * self.variance**scale)

    @property
    def share(self) -> Vectors:
        """Each direction's part of the kept variance."""
        return self.variance / max(self.variance.sum(), 1e-30)

    def where(self, encoded: Encoded) -> Vectors:
        """Whiten the rows whose bit is set, leave zeros elsewhere."""
        rows, has = encoded
        out = np.zeros((len(rows), len(self.variance)), dtype=np.float32)
        if has.any():
            out[has] = self(rows[has])
        return out


def whitening(rows: Vectors) -> Whitening:
    """Find the principal directions of rows [m, d], strongest first; they are not scaled yet."""
    mean = rows.mean(axis=0, dtype=np.float64) if len(rows) else np.zeros(rows.shape[1])
    centred = rows - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / max(len(rows), 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    top = values.max(initial=0)
    kept = np.flatnonzero((values > RELATIVE_FLOOR * top) & (values > 1e-12))[:MAX_DIRECTIONS]
    values, vectors = values[kept], vectors[:, kept]
    if len(kept):  # a decomposition leaves the signs open
        largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(len(kept))]
        vectors = vectors * np.where(largest < 0, -1, 1)
    parts = (part.astype(np.float32) for part in (mean, vectors, values))
    return Whitening(*parts, power=0.0)


@dataclass(frozen=True, slots=True)
class Shares:
    """How much of the block's energy each modality has; together 1."""

    text: float = 1.0
    image: float = 0.0
    multimodal: float = 0.0


@dataclass(frozen=True, slots=True)
class StandIns:
    """Linear maps between whitened modalities, as TO_from_FROM: float32 [from, to]."""

    text_from_image: Vectors
    text_from_multimodal: Vectors
    image_from_text: Vectors
    image_from_multimodal: Vectors
    multimodal_from_text: Vectors
    multimodal_from_image: Vectors


@dataclass(frozen=True, slots=True)
class ContentBlock:
    """The frozen content of an item as one unit row of `width` coordinates, most energetic first.

    A missing modality is replaced by its linear prediction from the ones that are there. An item
    with none has a zero row, and is the mean of the catalogue (`stand_in`) where it is `shown`.
    """

    text: Whitening
    image: Whitening
    multimodal: Whitening
    stand_ins: StandIns
    shares: Shares
    columns: NDArray[np.int32]
    stand_in: Vectors

    @property
    def width(self) -> int:
        """How many coordinates the block has."""
        return len(self.stand_in)

    def __call__(self, content: Content) -> Vectors:
        """Make unit rows [n, width], zero for items without any content."""
        known = {name: getattr(self, name).where(getattr(content, name)) for name in MODALITIES}
        parts = []
        for name in MODALITIES:
            lacking = ~getattr(content, name).has
            rows = known[name].copy()
            rows[lacking] = self._predicted(name, {k: v[lacking] for k, v in known.items()})
            parts.append(rows * np.float32(np.sqrt(getattr(self.shares, name))))
        block = np.zeros((len(content), self.width), dtype=np.float32)
        block[:, : len(self.columns)] = np.hstack(parts)[:, self.columns]
        return unit(block)

    def shown(self, rows: Vectors) -> Vectors:
        """Return the same rows, the mean of the catalogue in the place of zero ones."""
        return np.where(rows.any(axis=1, keepdims=True), rows, self.stand_in)

    def _predicted(self, name: str, known: dict[str, Vectors]) -> Vectors:
        """Predict a modality from the whitened others, which are zero where they lack."""
        predictions = [
            known[other] @ getattr(self.stand_ins, f"{name}_from_{other}")
            for other in MODALITIES
            if other != name
        ]
        return unit(np.sum(predictions, axis=0))


def content_block(
    content: Content, whitenings: Mapping[str, Whitening], *, shares: Shares, width: int
) -> ContentBlock:
    """Fit stand-ins and column order to a catalogue.

    whitenings: one per modality. shares: those of a modality that nobody has count for nothing.
    """
    whitened = {name: whitenings[name].where(getattr(content, name)) for name in MODALITIES}
    maps = {
        f"{to}_from_{name}": _between(content, whitened, name, to)
        for name, to in permutations(MODALITIES, 2)
    }
    shares = _held(shares, whitenings)
    energy = np.concatenate([getattr(shares, name) * whitenings[name].share for name in MODALITIES])
    columns = np.argsort(-energy, kind="stable")[: min(width, np.count_nonzero(energy))]
    block = ContentBlock(
        **{name: whitenings[name] for name in MODALITIES},
        stand_ins=StandIns(**maps),
        shares=shares,
        columns=columns.astype(np.int32),
        stand_in=np.eye(1, width, dtype=np.float32)[0],
    )
    known = np.logical_or.reduce([part.has for part in content.parts])
    mean = unit(block(content)[known].sum(axis=0, keepdims=True, dtype=np.float32))[0]
    return replace(block, stand_in=mean) if mean.any() else block


def _held(shares: Shares, whitenings: Mapping[str, Whitening]) -> Shares:
    """Return the shares of the modalities that there are, together 1; equal if all are 0."""
    there = {name: float(len(whitenings[name].variance) > 0) for name in MODALITIES}
    held = {name: getattr(shares, name) * there[name] for name in MODALITIES}
    if not any(held.values()):
        held = there if any(there.values()) else {"text": 1.0}
    total = sum(held.values())
    return Shares(**{name: held.get(name, 0.0) / total for name in MODALITIES})


def _between(content: Content, whitened: Mapping[str, Vectors], name: str, to: str) -> Vectors:
    both = getattr(content, name).has & getattr(content, to).has
    return _ridge(whitened[name][both], whitened[to][both])


def _ridge(x: Vectors, y: Vectors) -> Vectors:
    """Solve y ~ x @ w by least squares, shrunk; float32 [dx, dy]."""
    gram = x.T.astype(np.float64) @ x + RIDGE * np.eye(x.shape[1])
    return np.linalg.solve(gram, x.T.astype(np.float64) @ y).astype(np.float32)
