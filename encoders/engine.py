"""Where encoding runs: in this process, or on other machines. Knows no model and no table."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Protocol

from encoders.encoder import Encoder, Item, Vectors
from encoders.feed import encode_batches


class Engine(Protocol):
    """Runs an encoder over batches. Implementations inherit nothing."""

    def map(
        self, factory: Callable[[], Encoder], batches: Iterable[Sequence[Item]], /
    ) -> Iterator[Vectors]:
        """Yield float32 [len(batch), dim] per batch, in order; `factory` runs where the work is."""
        ...


class LocalEngine:
    """Encodes in this process. The encoder is loaded at the first batch, or never."""

    def map(
        self, factory: Callable[[], Encoder], batches: Iterable[Sequence[Item]], /
    ) -> Iterator[Vectors]:
        """Yield float32 [len(batch), dim] per batch, in order."""
        stream = iter(batches)
        for first in stream:
            yield from encode_batches(factory(), chain([first], stream))
