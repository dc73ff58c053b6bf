"""CLIP towers: texts and pictures in one joint space, read alone or both at once.

Knows no item id, no download and no model library.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.encoder import (
    Item,
    ItemError,
    MissingModality,
    Prepared,
    Vectors,
    text_of,
    unit_rows,
)
from encoders.framing import Framing
from encoders.image import square
from encoders.network import Features, Network

ROOM = {"cpu": 4, "cuda": 256}  # items per forward, all of whose texts have one length

Tokens = NDArray[np.int64]
Tokenize = Callable[[str], tuple[Tokens, int]]


class ClipTextEncoder:
    """The text half: a network from tokens int64 [n, t] to [n, dim]."""

    def __init__(
        self, network: Network, tokenize: Tokenize, *, dim: int, digest: str, device: str = "cpu"
    ) -> None:
        self.dim = dim
        self.digest = digest
        self.device = device
        self.room = ROOM.get(device.partition(":")[0], ROOM["cpu"])
        self._network = network
        self._tokenize = tokenize

    def prepare(self, item: Item, /) -> Prepared:
        """Tokenise a text."""
        tokens, cut = self._tokenize(text_of(item))
        return Prepared(tokens, cut=cut)

    def collate(self, contents: Sequence[Tokens], /) -> Tokens:
        """Stack the tokens."""
        return np.stack(contents)

    def forward(self, batch: Tokens, /) -> list[Vectors | ItemError]:
        """Run the network."""
        return unit_rows(self._network(batch))


class ClipJointEncoder:
    """Both halves: an item's vector is the mean of the unit vectors of what it has.

    An item with a text alone, or a picture alone, has that one's vector; nothing stands in for what
    is missing.
    """

    def __init__(
        self,
        text: Network,
        image: Network,
        tokenize: Tokenize,
        framing: Framing,
        *,
        dim: int,
        digest: str,
        device: str = "cpu",
    ) -> None:
        self.dim = dim
        self.digest = digest
        self.device = device
        self.room = ROOM.get(device.partition(":")[0], ROOM["cpu"])
        self._text = text
        self._image = image
        self._tokenize = tokenize
        self._framing = framing

    def prepare(self, item: Item, /) -> Prepared:
        """Tokenise the text and frame the picture, whichever there are."""
        if item.text is None and item.image is None:
            raise MissingModality("the item has neither text nor image")
        tokens, cut = (None, 0) if item.text is None else self._tokenize(text_of(item))
        pixels = None if item.image is None else square(item.image, self._framing)
        return Prepared((tokens, pixels), cut=cut)

    def collate(self, contents: Sequence[tuple[Any, Any]], /) -> list[tuple[NDArray[Any], Any]]:
        """Stack the texts, and the pictures, each with the rows they belong to."""
        stacked = []
        for half in range(2):
            rows = [row for row, content in enumerate(contents) if content[half] is not None]
            stack = np.stack([contents[row][half] for row in rows]) if rows else None
            stacked.append((np.array(rows, np.int64), stack))
        return stacked

    def forward(self, batch: list[tuple[NDArray[Any], Any]], /) -> list[Vectors | ItemError]:
        """Run both networks and add up their unit rows."""
        size = 1 + max(int(rows.max(initial=-1)) for rows, _ in batch)
        total = np.zeros((size, self.dim))
        for network, (rows, stack) in zip((self._text, self._image), batch, strict=True):
            if stack is not None:
                total[rows] += _unit(network(stack))
        return unit_rows(total)


def _unit(features: Features) -> NDArray[np.float64]:
    """Scale rows to length 1; a row that is not finite spoils its sum, which is then refused."""
    rows = features.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
