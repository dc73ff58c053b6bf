"""What an encoder is: items in, unit-length vectors out. It knows no model and no item id."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
MAX_CHARS = 200_000  # of a text that are looked at; ingest cuts, and counts, before that


@dataclass(frozen=True, slots=True)
class Item:
    """What there is to look at: a text, the bytes of a picture file, both or neither."""

    text: str | None = None
    image: bytes | None = None


class ItemError(ValueError):
    """An item that an encoder cannot take. `row` is its place in the batch, once that is known.

    reason: one word for it. lasting: whether the same encoder would refuse it again tomorrow.
    """

    row: int | None = None
    reason: str = "not_encodable"
    lasting: bool = True

    def __str__(self) -> str:
        """Put the row, where known, before the message."""
        return super().__str__() if self.row is None else f"row {self.row}: {super().__str__()}"


class MissingModality(ItemError):
    """The item lacks the text or the picture that the encoder reads."""

    reason = "missing_modality"


@dataclass(frozen=True, slots=True)
class Prepared:
    """One item as its model takes it.

    size: to how many tokens it is padded at least; 1 for a picture. rows: of a forward that it
    takes. cut: how many tokens of its text did not fit.
    """

    content: Any
    size: int = 1
    rows: int = 1
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of one item: a value, or the reason why there is none; one of both is set."""

    value: T | None
    refusal: ItemError | None = None
    cut: int = 0


class Model(Protocol[T_co]):
    """A model in the three steps that `encoders.feed` runs side by side for different items."""

    @property
    def room(self) -> int:
        """Largest forward, in rows * size, beyond which none is faster."""
        ...

    @property
    def device(self) -> str:
        """Where forward runs: "cpu", or torch's name of another device."""
        ...

    def prepare(self, item: Item, /) -> Prepared:
        """Decode and tokenise one item, in any thread; ItemError for one that is refused."""
        ...

    def collate(self, contents: Sequence[Any], /) -> Any:
        """Make one batch of the contents of prepared items, in any thread."""
        ...

    def forward(self, batch: Any, /) -> Sequence[T_co | ItemError]:
        """Run the model; element i is what became of the i-th item."""
        ...


class Encoder(Model[Vectors], Protocol):
    """A model whose values are vectors. Implementations inherit nothing.

    `feed.encode(encoder, items)` returns float32 [len(items), dim], row i of item i, unit rows.
    """

    @property
    def dim(self) -> int:
        """Length of every row."""
        ...

    @property
    def digest(self) -> str:
        """Hexadecimal; equal digests promise equal numbers, up to rounding."""
        ...


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


def unit_rows(features: NDArray[np.floating]) -> list[Vectors | ItemError]:
    """Scale every row of a model's features [n, d] to length 1, in float32.

    A row that is zero or not finite has no direction: it is refused, never a neutral vector.
    """
    rows = features.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    sound = (norms[:, 0] > 0) & np.isfinite(norms[:, 0])
    norms[~sound] = 1
    unit = (rows / norms).astype(np.float32)
    return [row if ok else NoDirection() for row, ok in zip(unit, sound, strict=True)]


class NoDirection(ItemError):
    """An item for which the model's output is zero or not finite."""

    def __init__(self, why: str = "the model's output is zero or not finite") -> None:
        super().__init__(why)


def each(prepare: Callable[[Item], T], items: Sequence[Item]) -> list[T | ItemError]:
    """Prepare each item; one that is refused leaves its error in its place."""
    found: list[T | ItemError] = []
    for item in items:
        try:
            found.append(prepare(item))
        except ItemError as error:
            found.append(error)
    return found
