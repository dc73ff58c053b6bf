"""Nearest items: which rows may be answers, what a query's vector is, exact cosine search.

It knows the rows of a pack and the filter over `items`. It cannot encode: for text and images it
calls the function that another package registers under the entry point below.
"""

from collections.abc import Callable
from importlib.metadata import entry_points

import numpy as np
from numpy.typing import ArrayLike, NDArray

from matryoshka.prefix import Vectors, prefix
from store.errors import BadVectors, MissingPart, QueryRefused, UnknownTable
from store.pack import Packs
from store.schema import positions
from store.tables import Tables

BLOCK = 65_536  # rows scored at once
ENCODERS = "itemnest.query_encoders"


def nearest(
    vectors: Vectors, query: Vectors, k: int, *, allowed: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], Vectors]:
    """Return the k allowed rows with the largest inner product, best first, and their scores.

    vectors: unit rows [n, dim]; query: [dim]; allowed: [n]. Ties go to the earlier row.
    """
    scores = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), BLOCK):
        np.matmul(vectors[start : start + BLOCK], query, out=scores[start : start + BLOCK])
    rows = np.flatnonzero(allowed)
    if k < len(rows):
        # Whatever ties with the k-th best stays in until the order of rows has decided.
        least = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
        rows = rows[scores[rows] >= least]
    best = rows[np.argsort(-scores[rows], kind="stable")][:k]
    return best, scores[best]


def allowed_rows(tables: Tables, packs: Packs, where: str | None) -> NDArray[np.bool_]:
    """Return which rows of the pack are items that pass a SQL filter over the pinned `items`."""
    release = packs.release
    allowed = np.ones(len(packs.ids) + 2, bool)
    allowed[[0, -1]] = False  # the rows of padding and of the mean are no items
    if where is None:
        return allowed
    if "items" not in release.tables:
        raise UnknownTable(f"{release.name} has no items table: where={where!r} filters nothing")
    # The brackets refuse what Lance would ignore behind a filter: `; DROP …`, ORDER BY, LIMIT.
    version = release.tables["items"]
    try:
        passed = tables.read("items", columns=["item_id"], where=f"({where})", version=version)
    except (ValueError, OSError) as error:
        # What follows ", /" is a path in Lance's sources.
        message = " ".join(str(error).split(", /")[0].removeprefix("Invalid user input: ").split())
        raise QueryRefused(f"where={where!r} is not a filter over items: {message}") from error
    allowed[1:-1] = positions(packs.ids, passed["item_id"]).is_valid().to_numpy(False)
    return allowed


def query_vector(vector: ArrayLike, *, dim: int, width: int) -> Vectors:
    """Return a query's unit vector [dim] from a vector of the full width or of `dim`."""
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            given = np.asarray(vector).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise BadVectors(f"the query {vector!r:.60} is neither an id nor a vector") from error
    if given.shape not in {(dim,), (width,)}:
        raise BadVectors(f"the query has shape {given.shape}: pass ({width},) or ({dim},)")
    if not np.isfinite(given).all():
        raise BadVectors("the query holds NaN or infinity")
    unit = prefix(given[None], dim)[0]
    if not unit.any():
        raise BadVectors(f"the query is zero in its first {dim} coordinates: it has no direction")
    return unit


def query_encoder() -> Callable[..., Vectors]:
    """Return the function that encodes text and images: (store, *, text, image, view)."""
    try:
        (found,) = entry_points(group=ENCODERS, name="default")
        return found.load()
    except (ValueError, ModuleNotFoundError) as error:
        raise MissingPart(
            "searching by text or image needs the encoders: pip install 'itemnest[assets]'"
        ) from error
