"""Everything the store refuses, as a tree. It knows how to say what went wrong, not why it did.

ItemnestError
├── NoRelease        nothing is published here yet (LookupError)
├── StoreExists      there is a store here already (FileExistsError)
├── UnknownRelease   no such release, or no longer kept (LookupError)
├── UnknownPin       a consumer that has pinned nothing (LookupError)
├── UnknownTable     no such table (LookupError)
├── UnknownIds       ids that the release does not hold (LookupError)
├── UnknownDim       not a published granularity (ValueError)
├── UnknownView      no such view, or no such role (ValueError)
├── BadIds           something that cannot be an item id (ValueError)
├── BadVectors       vectors that cannot be published or compared (ValueError)
├── BadTable         rows that do not fit their table, or repeat its key (ValueError)
├── BadPack          a cache file that does not hold what it should (RuntimeError)
├── BadIndex         a search index that is not what its release says (RuntimeError)
├── SpaceMismatch    vectors of different spaces would meet (ValueError)
├── StoreLocked      another process is writing (RuntimeError)
├── UnfitStore       an object store that cannot be written to safely (RuntimeError)
├── ForkedProcess    a forked child would use what does not survive a fork (RuntimeError)
├── QueryRefused     a query or filter that is not taken, or not finished (ValueError)
└── MissingPart      a feature whose package is not installed (RuntimeError)
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice


class ItemnestError(Exception):
    """The root: whoever catches this catches every refusal of the store."""


class NoRelease(ItemnestError, LookupError):
    """Nothing has been published here."""


class StoreExists(ItemnestError, FileExistsError):
    """A new store was asked for where one is."""


class UnknownRelease(ItemnestError, LookupError):
    """The release does not exist or is no longer kept."""


class UnknownPin(ItemnestError, LookupError):
    """The consumer has pinned no release."""


class UnknownTable(ItemnestError, LookupError):
    """The store or the release has no such table."""


class UnknownIds(ItemnestError, LookupError):
    """Some of the ids asked for are not in the release."""


class UnknownDim(ItemnestError, ValueError):
    """The release does not publish this granularity."""


class UnknownView(ItemnestError, ValueError):
    """The release has no such view, or the view no such role."""


class BadIds(ItemnestError, ValueError):
    """A value that cannot be an item id."""


class BadVectors(ItemnestError, ValueError):
    """Vectors that cannot be published or compared."""


class BadTable(ItemnestError, ValueError):
    """Rows that do not fit their table or repeat its key."""


class BadPack(ItemnestError, RuntimeError):
    """A cache file that does not hold what its release holds."""


class BadIndex(ItemnestError, RuntimeError):
    """A search index that is absent, incomplete or another than its release says."""


class SpaceMismatch(ItemnestError, ValueError):
    """Vectors of different spaces must never be compared."""


class StoreLocked(ItemnestError, RuntimeError):
    """Another process is writing to the store."""


class UnfitStore(ItemnestError, RuntimeError):
    """An object store that cannot be written to, or not safely."""


class ForkedProcess(ItemnestError, RuntimeError):
    """A process that was forked cannot do this; its parent, or one that was spawned, can."""


class QueryRefused(ItemnestError, ValueError):
    """A query or filter that the store does not take, or did not finish within its limits."""


class MissingPart(ItemnestError, RuntimeError):
    """A feature that needs a package which is not installed."""


@contextmanager
def no_panic() -> Iterator[None]:
    """Raise a panic of Lance, which is no Exception, as a RuntimeError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a module that cannot be imported
            raise
        raise RuntimeError(f"Lance panicked: {error}") from error


def some(values: Iterable[object], limit: int = 5) -> str:
    """Return the first few values for a message: `'a', 'b', …`."""
    first = list(islice(values, limit + 1))
    return ", ".join(map(repr, first[:limit])) + (", …" if len(first) > limit else "")
