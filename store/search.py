"""Nearest items: which rows may be answers, what a query's vector is, and the search itself.

It knows the rows of a pack and the way that a release is searched: exactly, or on a short prefix
whose best rows are scored anew. What way that is, `store.recall` has measured. It cannot encode:
for text and images it calls the function that another package registers under the entry point
below.
"""

from collections.abc import Callable
from importlib.metadata import entry_points
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from matryoshka.prefix import Vectors, prefix
from store.errors import BadVectors, MissingPart, UnknownTable
from store.pack import Packs
from store.recall import K

BLOCK = 65_536  # rows scored at once
FEW = 20_000  # when no more rows pass a filter, those alone are read: a millisecond at 128
FEW_IN = 8  # when more than one row in so many is a candidate, all are read: it is no slower
ENCODERS = "itemnest.query_encoders"


class Eligible(NamedTuple):
    """Which rows of the pack may be answers: of `allowed`, ascending (None: all), not `banned`."""

    allowed: NDArray[np.int64] | None
    banned: NDArray[np.int64]

    def largest(self, scores: Vectors, k: int) -> NDArray[np.int64]:
        """Return the rows of the k largest scores [n + 2] and all that tie, ascending."""
        scores[[0, -1]] = -np.inf  # the rows of padding and of the mean are no items
        scores[self.banned] = -np.inf
        if self.allowed is None:
            return _largest(scores, k)
        return self.allowed[_largest(scores[self.allowed], k)]

    def kept(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of the rows that may be answers."""
        if self.allowed is not None:
            at = np.searchsorted(self.allowed, rows)
            rows = rows[self.allowed[np.minimum(at, len(self.allowed) - 1)] == rows]
        return rows[~np.isin(rows, self.banned)]


def eligible(packs: Packs, where: str | None, exclude: list[str]) -> Eligible:
    """Return which rows pass a SQL filter over the pinned `items` and are not excluded."""
    if where is not None and "items" not in packs.release.tables:
        name = packs.release.name
        raise UnknownTable(f"{name} has no items table: where={where!r} filters nothing")
    allowed = None if where is None else packs.filter.rows(where)
    return Eligible(allowed, packs.index.rows(exclude))


def closest(
    packs: Packs, place: tuple[str, int], query: Vectors, k: int, among: Eligible
) -> tuple[NDArray[np.int64], Vectors]:
    """Return the k eligible rows nearest to a query, best first, and their scores.

    place: column and dim; query: a unit row [dim]. The rows are found in the way that the release
    names, and are k wherever so many are eligible. Of equal scores the earlier row wins.
    """
    rows = _candidates(packs, place, query, k, among)
    if rows is None:
        scores = _scored(packs.vectors(*place), query)
        rows = among.largest(scores, k)
        best = nearest(scores[rows], k)
        return rows[best], scores[rows[best]]
    read = packs.take(*place, rows, np.empty((len(rows), len(query)), np.float32))
    scores = read @ query
    best = nearest(scores, k)
    return rows[best], scores[best]


def nearest(scores: Vectors, k: int) -> NDArray[np.int64]:
    """Return where the k largest finite scores are, best first; ties go to the earlier place."""
    places = _largest(scores, k)
    return places[np.argsort(-scores[places], kind="stable")][:k]


def _candidates(
    packs: Packs, place: tuple[str, int], query: Vectors, k: int, among: Eligible
) -> NDArray[np.int64] | None:
    """Return eligible rows, ascending, that hold the answers; None when all have to be read."""
    if among.allowed is not None and len(among.allowed) <= FEW:
        return among.kept(among.allowed)
    (column, dim), plan = place, packs.release.description.get("search", {})
    setting = plan.get("settings", {}).get(str(dim))
    if setting is None or plan["column"] != column:
        return None
    wanted = ceil(setting["candidates"] * max(1, k / K))
    head = prefix(query[None], plan["prefix"])[0]
    if FEW_IN * wanted > len(packs.ids) or not head.any():
        return None
    if plan["kind"] != "scan":
        return _indexed(packs, head, wanted, setting["nprobes"], among)
    scores = _scored(packs.vectors(column, plan["prefix"]), head)
    return among.largest(scores, wanted)


def _indexed(
    packs: Packs, head: Vectors, wanted: int, nprobes: int, among: Eligible
) -> NDArray[np.int64] | None:
    """Return what the index finds, None when that is less than wanted.

    Of a filtered table it is asked for as many more as the filter will drop.
    """
    share = 1 if among.allowed is None else len(packs.ids) / len(among.allowed)
    count = ceil(wanted * share) + len(among.banned)
    found = 1 + packs.nearby.candidates(head, count, ceil(nprobes * share))
    rows = np.sort(among.kept(found))
    return rows if len(rows) >= wanted else None


def _scored(vectors: Vectors, query: Vectors) -> Vectors:
    scores = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), BLOCK):
        np.matmul(vectors[start : start + BLOCK], query, out=scores[start : start + BLOCK])
    return scores


def _largest(scores: Vectors, k: int) -> NDArray[np.int64]:
    """Return where the k largest finite scores are, and all that tie with the least, ascending."""
    least = np.partition(scores, len(scores) - k)[len(scores) - k] if k < len(scores) else -np.inf
    return np.flatnonzero((scores >= least) & (scores > -np.inf))


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
