"""Item vectors of a catalogue, released, versioned and read at memory speed."""

from store.errors import (
    BadIds,
    BadPack,
    BadTable,
    BadVectors,
    ItemnestError,
    MissingPart,
    NoRelease,
    QueryRefused,
    SpaceMismatch,
    StoreExists,
    StoreLocked,
    UnknownDim,
    UnknownIds,
    UnknownRelease,
    UnknownTable,
    UnknownView,
)
from store.itemstore import ItemMatrix, ItemStore, Lookup, SequenceVectors
from store.releases import Changes, Release

__all__ = [
    "BadIds",
    "BadPack",
    "BadTable",
    "BadVectors",
    "Changes",
    "ItemMatrix",
    "ItemStore",
    "ItemnestError",
    "Lookup",
    "MissingPart",
    "NoRelease",
    "QueryRefused",
    "Release",
    "SequenceVectors",
    "SpaceMismatch",
    "StoreExists",
    "StoreLocked",
    "UnknownDim",
    "UnknownIds",
    "UnknownRelease",
    "UnknownTable",
    "UnknownView",
]
