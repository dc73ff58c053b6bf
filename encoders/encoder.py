"""What an encoder is: items in, unit-length vectors out. It knows no model and no item id."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Prepared = TypeVar("Prepared")
MAX_CHARS = 20_000  # far beyond any model's tokens; bounds the time a megabyte of text can take


@dataclass(frozen=True, slots=True)
class Item:
    """What there is to look at: a text, the bytes of a picture file, both or neither."""

    text: str | None = None
    image: bytes | None = None


class ItemError(ValueError):
    """An item that an encoder cannot take. `row` is its place in the batch, once that is known."""

    row: int | None = None

    def __str__(self) -> str:
        """Put the row, where known, before the message."""
        return super().__str__() if self.row is None else f"row {self.row}: {super().__str__()}"


class MissingModality(ItemError):
    """The item lacks the text or the picture that the encoder reads."""


class Encoder(Protocol):
    """Maps items to unit-length vectors. Implementations inherit nothing."""

    @property
    def dim(self) -> int:
        """Length of every row."""
        ...

    @property
    def digest(self) -> str:
        """Hexadecimal; equal digests promise equal numbers, up to rounding."""
        ...

    def encode(self, items: Sequence[Item], /) -> Vectors:
        """Return float32 [len(items), dim]; row i is items[i]; every row has norm 1.

        Safe to call from several threads. Raises ItemError, with its row, for an item it refuses.
        """
        ...


def prepare_rows(prepare: Callable[[Item], Prepared], items: Sequence[Item]) -> list[Prepared]:
    """Prepare each item, naming the row of one that is refused."""
    prepared = []
    for row, item in enumerate(items):
        try:
            prepared.append(prepare(item))
        except ItemError as error:
            error.row = row
            raise
    return prepared


def text_of(item: Item) -> str:
    """Return the item's text, which may be empty, as far as a model can take it in.

    Lone surrogates, which UTF-8 cannot carry, become question marks.
    """
    if item.text is None:
        raise MissingModality("the item has no text, and this encoder reads text only")
    return item.text[:MAX_CHARS].encode("utf-8", "replace").decode()


def image_of(item: Item) -> bytes:
    """Return the bytes of the item's picture."""
    if item.image is None:
        raise MissingModality("the item has no image, and this encoder reads images only")
    return item.image


def unit_rows(outputs: NDArray[np.floating]) -> Vectors:
    """Scale every row of a model's outputs [n, d] to length 1.

    A row that is zero or not finite has no direction: it is an error, never a neutral vector.
    """
    rows = outputs.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    broken = np.flatnonzero(~((norms[:, 0] > 0) & np.isfinite(norms[:, 0])))
    if broken.size:
        raise ValueError(
            f"the model's outputs {broken[:5].tolist()} are zero or not finite: its weights or "
            "its preprocessing are wrong"
        )
    return (rows / norms).astype(np.float32)
