"""How a release is searched: chosen at publishing, by measured recall, and written into it.

It knows what exact search answers for a sample of items, and how many candidates of a shorter
prefix hold those answers. It does not know how a query is answered later: `store.search`.

A release's description has, under "search", the `kind`: "exact"; "scan", every row scored on a
short prefix; or that of an index. Other than "exact" it names the `column` searched, the `prefix`,
and by dim the `settings` that reached the floor; a dim without is searched exactly. The candidates
are scored anew at the dim asked for, so the share of the exact answers among them is the recall.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from matryoshka.prefix import Vectors, prefix
from store import ann
from store.errors import BadIndex, BadVectors, UnknownTable
from store.schema import ROLES, SEARCH_PREFIX, matrix, view_column
from store.tables import Tables

if TYPE_CHECKING:
    from store.releases import Draft, Release

Ranking: TypeAlias = NDArray[np.int64]  # [q, m]: per query, rows in table order, the nearest first

SCAN_FROM = 20_000  # rows; an exact scan of fewer takes less than half a millisecond
# A query takes, at best: of 200,000 rows of 128 a scan 2.6 ms, the index 4.7; of 400,000, 8.4 and
# 5.6. Lance plans for almost 2 ms before it reads.
INDEX_FROM = 300_000
PREFIXES = (32, 64, 128, 256)  # tried beside the published ones
K = 10  # the answers that recall counts
FLOOR = 0.99  # recall on the sample; that of other queries may be a point or two lower
SAMPLE = 200  # items whose nearest are sought
POOL = 2048  # candidates at most
INDEX_POOL = 1024  # and those of an index, whose query takes longer with every one
FEW = 256  # an index misses some of them: let it have a prefix that needs no more than these
PROBES = (8, 16, 32, 64, 96, 128)  # partitions of the index that are read
BATCH = 32_768  # rows scored at once
NONE_FOUND: Ranking = np.empty((0, 0), np.int64)


class Way(NamedTuple):
    """How a release is searched: the table version, the description and the recall by dim."""

    version: int
    plan: dict[str, Any]
    recall: dict[str, float]


class Sample(NamedTuple):
    """Items as queries: their rows [q], and by dim their vectors [q, dim]."""

    rows: NDArray[np.int64]
    vectors: dict[int, Vectors]


class Truth(NamedTuple):
    """What exact search answers: the column, the dims published, the sample, its answers by dim."""

    column: str
    dims: Sequence[int]
    sample: Sample
    ranked: dict[int, Ranking]


def searchable(tables: Tables, draft: "Draft", log: Sequence["Release"]) -> "Draft":
    """Return the draft with the way that its default view is searched, indexed where that pays.

    What an earlier release found for the same vectors is taken over. Call it under the writer
    lock: an index makes a new version of `item_vectors`, which the draft then pins.
    """
    if SEARCH_PREFIX in draft.description["views"]:
        raise BadVectors(f"a view may not be called {SEARCH_PREFIX!r}: the search index is")
    way = _found_before(tables, draft, log) or _found(tables, draft)
    _refuse_other_rows(tables, draft.tables["item_vectors"], way.version)
    quality = {name: part for name, part in draft.quality.items() if name != "search"}
    if way.recall:
        quality["search"] = {"sample": SAMPLE, f"recall@{K}": way.recall}
    return replace(
        draft,
        tables={**draft.tables, "item_vectors": way.version},
        description={**draft.description, "search": way.plan},
        quality=quality,
    )


def _found_before(tables: Tables, draft: "Draft", log: Sequence["Release"]) -> Way | None:
    version, shape = draft.tables["item_vectors"], _shape(draft.description)
    for release in reversed(log):
        plan, pinned = release.description.get("search"), release.tables["item_vectors"]
        if not plan or _shape(release.description) != shape:
            continue
        if version in (plan["made_from"], pinned):
            recall = release.quality.get("search", {}).get(f"recall@{K}", {})
            return Way(pinned, plan, recall) if _kept(tables, pinned, plan) else None
    return None


def _shape(description: Mapping[str, Any]) -> str:
    parts = ("dims", "views", "default_view")
    return json.dumps([description[part] for part in parts], sort_keys=True)


def _kept(tables: Tables, version: int, plan: Mapping[str, Any]) -> bool:
    try:
        tables.dataset("item_vectors", version=version)
        if "index" in plan:
            ann.prove(tables, version, plan)
    except (UnknownTable, BadIndex):  # cleaned up or damaged since
        return False
    return True


def _refuse_other_rows(tables: Tables, proven: int, pinned: int) -> None:
    """Refuse to pin a version whose rows, in this order, are not those of the version proven."""
    if proven == pinned:
        return
    before, after = (
        tables.read("item_vectors", columns=["item_id", "digest"], version=version)
        for version in (proven, pinned)
    )
    if not after.equals(before):
        raise BadVectors(
            f"item_vectors: version {pinned}, which is searched, has other rows than version "
            f"{proven}, which is to be published: write the vectors anew, then publish them"
        )


def _found(tables: Tables, draft: "Draft") -> Way:
    version = draft.tables["item_vectors"]
    rows = tables.count("item_vectors", version=version)
    way = None
    if rows >= SCAN_FROM:
        truth = _truth(tables, draft)
        way = _indexed(tables, version, truth) if rows >= INDEX_FROM else _scanned(version, truth)
    way = way or Way(version, {"kind": "exact"}, {})
    return way._replace(plan={**way.plan, "made_from": version})


def _truth(tables: Tables, draft: "Draft") -> Truth:
    version, dims = draft.tables["item_vectors"], draft.description["dims"]
    view = draft.description["default_view"]
    roles = draft.description["views"][view]
    context, target = (view_column(view, role if roles else None) for role in ROLES)
    tried = {*dims} | {short for short in PREFIXES if short < dims[-1]}
    sample = _sample(tables, version, context, tried)
    batches = tables.batches("item_vectors", columns=[target], version=version, batch_size=BATCH)
    return Truth(target, dims, sample, rank((matrix(batch[target]) for batch in batches), sample))


def _sample(tables: Tables, version: int, column: str, dims: set[int]) -> Sample:
    data = tables.dataset("item_vectors", version=version)
    n = data.count_rows()
    rows = np.sort(np.random.default_rng(n).choice(n, min(SAMPLE, n), replace=False))
    vectors = matrix(data.take(rows, columns=[column])[column])
    return Sample(rows, {dim: prefix(vectors, dim) for dim in dims})


def rank(parts: Iterable[Vectors], sample: Sample) -> dict[int, Ranking]:
    """Return by dim the POOL rows of the largest cosine to every query, never the query's own.

    parts: the rows [n, width] in table order. A dim at which a row has no direction is left out.
    """
    none = np.empty((len(sample.rows), 0))
    best = {dim: (none.astype(np.float32), none.astype(np.int64)) for dim in sample.vectors}
    start = 0
    for part in parts:
        here = np.flatnonzero((sample.rows >= start) & (sample.rows < start + len(part)))
        for dim in list(best):
            heads = prefix(part, dim)
            if not heads.any(axis=1).all():
                del best[dim]
                continue
            scores = sample.vectors[dim] @ heads.T
            scores[here, sample.rows[here] - start] = -np.inf
            best[dim] = _merged(*best[dim], scores, start)
        start += len(part)
    return {dim: _ordered(*found) for dim, found in best.items()}


def _merged(scores: Vectors, rows: Ranking, more: Vectors, start: int) -> tuple[Vectors, Ranking]:
    """Return the POOL best of those kept and of `more`, whose first column is row `start`."""
    new = np.broadcast_to(np.arange(start, start + more.shape[1]), more.shape)
    scores, rows = np.hstack([scores, more]), np.hstack([rows, new])
    spare = scores.shape[1] - POOL
    if spare > 0:
        kept = np.argpartition(scores, spare, axis=1)[:, spare:]
        return np.take_along_axis(scores, kept, 1), np.take_along_axis(rows, kept, 1)
    return scores, rows


def _ordered(scores: Vectors, rows: Ranking) -> Ranking:
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(rows, order, 1)


def _short_prefix(truth: Truth, most: int) -> int:
    """Return the shortest prefix of which `most` candidates reach the floor at every longer dim."""
    for short in sorted(truth.ranked):
        found = truth.ranked[short]
        needed = [_needed(found, truth.ranked[dim]) for dim in truth.dims if dim >= short]
        if all(count is not None and count <= most for count in needed):
            return short
    raise AssertionError("a prefix of the full width holds its own answers")


def _scanned(version: int, truth: Truth) -> Way | None:
    """Return the scan of a short prefix, None where none is short; dims up to it need no other."""
    short = _short_prefix(truth, POOL)
    way = _way(version, "scan", truth, short)
    for dim in truth.dims:
        if dim > short:
            _settle(way, dim, truth.ranked[short], truth.ranked[dim], {})
    return way if way.recall else None


def _indexed(tables: Tables, version: int, truth: Truth) -> Way | None:
    """Return a search by index that reads as few partitions as will do; None where none will."""
    short = _short_prefix(truth, FEW)
    way = _way(ann.build(tables, version, truth.column, short), ann.KIND, truth, short)
    index = way.plan["index"] = ann.described(tables, way.version)
    nearby = ann.Nearby(tables, way.version, index)
    for nprobes in PROBES:
        left = [dim for dim in truth.dims if dim >= short and str(dim) not in way.recall]
        found = _asked(nearby, truth.sample, short, nprobes) if left else NONE_FOUND
        for dim in left:
            _settle(way, dim, found, truth.ranked[dim], {"nprobes": nprobes})
    return way if way.recall else None


def _way(version: int, kind: str, truth: Truth, short: int) -> Way:
    return Way(version, {"kind": kind, "column": truth.column, "prefix": short, "settings": {}}, {})


def _settle(way: Way, dim: int, found: Ranking, exact: Ranking, setting: Mapping[str, int]) -> None:
    """Write down how many of the candidates found reach the floor at a dim, if they do."""
    if (count := _needed(found, exact)) is not None:
        way.plan["settings"][str(dim)] = {"candidates": count, **setting}
        way.recall[str(dim)] = round(float((_places(found, exact) < count).mean()), 4)


def _asked(nearby: ann.Nearby, sample: Sample, short: int, nprobes: int) -> Ranking:
    """Return the index's candidates for every query, -1 where it has no more."""
    found = np.full((len(sample.rows), INDEX_POOL), -1)
    for query, (own, vector) in enumerate(zip(sample.rows, sample.vectors[short], strict=True)):
        rows = nearby.candidates(vector, INDEX_POOL + 1, nprobes)
        rows = rows[rows != own][:INDEX_POOL]
        found[query, : len(rows)] = rows
    return found


def _places(candidates: Ranking, exact: Ranking) -> NDArray[np.int64]:
    """Return where among the candidates each exact answer stands, their number if nowhere."""
    same = candidates[:, None, :] == exact[:, :K, None]
    return np.where(same.any(axis=2), same.argmax(axis=2), candidates.shape[1]).ravel()


def _needed(candidates: Ranking, exact: Ranking) -> int | None:
    """Return how many candidates hold FLOOR of the exact answers, None if even all do not."""
    places = np.sort(_places(candidates, exact))
    last = int(places[ceil(FLOOR * len(places)) - 1])
    return last + 1 if last < candidates.shape[1] else None
