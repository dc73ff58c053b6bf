"""Image towers: pictures, framed as the model wants them, through a network that is given.

Knows no item id, no download and no model library.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.encoder import Item, ItemError, Prepared, Vectors, image_of, unit_rows
from encoders.framing import Framing, frame
from encoders.images import LARGEST, open_picture
from encoders.network import Network

ROOM = {"cpu": 4, "cuda": 256}  # pictures per forward; on a CPU more of them leave its caches

Squares = NDArray[np.uint8]


class ImageEncoder:
    """Maps pictures to features, by a network from uint8 [n, size, size, 3] to [n, dim]."""

    def __init__(
        self,
        network: Network,
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
        self._network = network
        self._framing = framing

    def prepare(self, item: Item, /) -> Prepared:
        """Decode a picture and frame it."""
        return Prepared(square(image_of(item), self._framing))

    def collate(self, contents: Sequence[Squares], /) -> Squares:
        """Stack the squares."""
        return np.stack(contents)

    def forward(self, batch: Squares, /) -> list[Vectors | ItemError]:
        """Run the network."""
        return unit_rows(self._network(batch))


def square(data: bytes, framing: Framing) -> NDArray[Any]:
    """Decode the bytes of a picture file and frame it: uint8 [size, size, 3]."""
    picture = open_picture(data, min_side=framing.min_side, max_pixels=LARGEST)
    return frame(picture, framing)
