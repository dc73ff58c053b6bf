"""Content vectors: each modality centred and power-whitened, joined into one block of unit rows.

It knows encoder outputs as arrays with a bit per row that says whether the item has the modality.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from matryoshka.prefix import Vectors, unit

MAX_DIRECTIONS = 256
RELATIVE_FLOOR = 1e-5
RIDGE = 1.0
Bits = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Content:
    """Encoder outputs of n items: text [n, dt], image [n, di], and who has them.

    A modality that nobody has may be zero wide. Rows without a modality are ignored.
    """

    text: Vectors
    has_text: Bits
    image: Vectors
    has_image: Bits

    def __post_init__(self) -> None:
        sizes = [len(part) for part in (self.text, self.has_text, self.image, self.has_image)]
        if len(set(sizes)) != 1:
            raise ValueError(f"parts of {sizes} rows: text, image and their bits must be as long")

    def __len__(self) -> int:
        return len(self.text)


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

    def where(self, rows: Vectors, has: Bits) -> Vectors:
        """Whiten the rows whose bit is set, leave zeros elsewhere."""
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
class ContentBlock:
    """The frozen content of an item as one unit row of `width` coordinates, most energetic first.

    A missing modality is replaced by its linear prediction from the other one; an item with neither
    is the mean of the catalogue (`stand_in`).
    """

    text: Whitening
    image: Whitening
    text_from_image: Vectors
    image_from_text: Vectors
    image_weight: float
    columns: NDArray[np.int32]
    stand_in: Vectors

    @property
    def width(self) -> int:
        """How many coordinates the block has."""
        return len(self.stand_in)

    def __call__(self, content: Content) -> Vectors:
        """Make unit rows [n, width]."""
        text = self.text.where(content.text, content.has_text)
        image = self.image.where(content.image, content.has_image)
        text[~content.has_text] = unit(image[~content.has_text] @ self.text_from_image)
        image[~content.has_image] = unit(text[~content.has_image] @ self.image_from_text)
        text *= np.sqrt(1 - self.image_weight)
        image *= np.sqrt(self.image_weight)
        block = np.zeros((len(content), self.width), dtype=np.float32)
        block[:, : len(self.columns)] = np.hstack([text, image])[:, self.columns]
        block = unit(block)
        block[~block.any(axis=1)] = self.stand_in
        return block


def content_block(
    content: Content, text: Whitening, image: Whitening, *, image_weight: float, width: int
) -> ContentBlock:
    """Fit stand-ins and column order to a catalogue. image_weight: 0 text only .. 1 image only."""
    if not len(text.variance) or not len(image.variance):
        image_weight = float(len(image.variance) > 0)
    both = content.has_text & content.has_image
    t, i = text.where(content.text, both)[both], image.where(content.image, both)[both]
    energy = np.concatenate([(1 - image_weight) * text.share, image_weight * image.share])
    columns = np.argsort(-energy, kind="stable")[: min(width, np.count_nonzero(energy))]
    first_axis = np.eye(1, width, dtype=np.float32)[0]
    block = ContentBlock(
        text, image, _ridge(i, t), _ridge(t, i), image_weight, columns.astype(np.int32), first_axis
    )
    known = content.has_text | content.has_image
    mean = unit(block(content)[known].sum(axis=0, keepdims=True, dtype=np.float32))[0]
    return replace(block, stand_in=mean) if mean.any() else block


def _ridge(x: Vectors, y: Vectors) -> Vectors:
    """Solve y ~ x @ w by least squares, shrunk; float32 [dx, dy]."""
    gram = x.T.astype(np.float64) @ x + RIDGE * np.eye(x.shape[1])
    return np.linalg.solve(gram, x.T.astype(np.float64) @ y).astype(np.float32)
