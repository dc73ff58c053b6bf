"""Where encoding runs: in this process, or on other machines. Knows no model and no table."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Protocol, TypeAlias, TypeVar

from encoders.encoder import Outcome

Ref = TypeVar("Ref")
T = TypeVar("T")
Work: TypeAlias = Callable[[Iterable[Sequence[Any]]], Iterator[list[Outcome[T]]]]


class Engine(Protocol):
    """Runs work on batches of references to items. Implementations inherit nothing."""

    def map(
        self, factory: Callable[[], Work[T]], batches: Iterable[Sequence[Ref]], /
    ) -> Generator[list[Outcome[T]], None, None]:
        """Yield what became of each reference of each batch, in order.

        `factory` is called where the work is done: it loads a model and returns what reads
        references and runs the model on what they stand for.
        """
        ...


class EngineError(RuntimeError):
    """Where the work is, or all of it at once, is at fault rather than an item."""


class LocalEngine:
    """Works in this process. Nothing is loaded before the first batch."""

    def map(
        self, factory: Callable[[], Work[T]], batches: Iterable[Sequence[Ref]], /
    ) -> Generator[list[Outcome[T]], None, None]:
        """Yield what became of each reference of each batch, in order."""
        stream = iter(batches)
        for first in stream:
            yield from factory()(chain([first], stream))
