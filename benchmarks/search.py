"""Searches: recall against exact search, and what they cost, beside numpy and LanceDB's own.

    python -m benchmarks.search [--items 100000] [--space even|nested] [--folder FOLDER]

Prints one JSON line per figure, after one that describes the machine; exit status 1 if a limit is
missed. The limits are those of 100,000 items.

The items are random points around one centre for every hundred, 128 wide, published at 32, 64 and
128. In the space "even" every coordinate weighs the same, so that a prefix says little of the
whole; in "nested" their weight falls, as in a Matryoshka space. Queries are further points around
the same centres, no items themselves. They ask for the ten nearest at 128, one at a time; the
methods take turns at every query, all warm. Recall is the share of the ten that exact search finds.

LanceDB searches the column of 128 with the index that it makes by default, and ranks the best 100
anew from the vectors; up to 100,000 items, since that index takes long.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import TypeAlias, cast

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import IvfPq
from lancedb.query import LanceVectorQueryBuilder
from numpy.typing import NDArray

from benchmarks.figures import Report, print_machine, significant
from matryoshka.prefix import unit
from store import ItemStore, releases
from store.schema import vector_array

Vectors: TypeAlias = NDArray[np.float32]
Search: TypeAlias = Callable[[Vectors], Sequence[str]]

LIMITED = 100_000  # the number of items that the limits are for
RECALL, P50_MS = 0.97, 3.0
WIDTH, DIMS, K = 128, (32, 64, 128), 10
PER_CENTRE, SPREAD, FALL = 100, 0.8, 0.5
QUERIES, WARM, THREADS = 300, 20, 4
RIVAL_UP_TO = 100_000  # items; its index takes a minute or two for these
SEED = 20
SHARES = (0.01, 0.5)  # of the items that pass a filter
OURS = "itemnest"


def main() -> int:
    """Measure the size and the space named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=int, default=LIMITED)
    parser.add_argument("--space", choices=("even", "nested"), default="nested")
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    asked = parser.parse_args()
    report = Report(limited=asked.items == LIMITED, items=asked.items)
    print_machine("numpy", "lancedb", "pylance")
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        measure(report, Path(folder), points(asked.items + QUERIES, asked.space))
    return report.status()


def points(n: int, space: str) -> Vectors:
    """Return float32 [n, WIDTH] unit rows around n / PER_CENTRE centres."""
    random = np.random.default_rng(SEED)
    rows = random.standard_normal((n, WIDTH), np.float32) * np.float32(SPREAD)
    centres = random.standard_normal((max(1, n // PER_CENTRE), WIDTH), np.float32)
    rows += centres[random.integers(len(centres), size=n)]
    if space == "nested":
        rows *= np.arange(1, WIDTH + 1, dtype=np.float32) ** -FALL
    return unit(rows)


def measure(report: Report, folder: Path, rows: Vectors) -> None:
    """Publish all rows but the queries, search for these, print every figure."""
    items, queries = rows[:-QUERIES], rows[-QUERIES:]
    ids = [f"item-{row}" for row in range(len(items))]
    store = published(report, folder / "store", ids, items)
    ways: dict[str, Search] = {
        OURS: search(store),
        "numpy exact": lambda query: named(ids, items @ query),
    }
    if len(items) <= RIVAL_UP_TO:
        ways["lancedb"] = lancedb_search(report, folder / "lancedb", ids, items)
    truth = [named(ids, items @ query) for query in queries]
    compare(report, ways, queries, truth)
    report_threads(report, ways[OURS], queries)
    for share in SHARES:
        out = prices(len(items)) >= share
        truth = [named(ids, np.where(out, -2, items @ query)) for query in queries]
        name = f"{OURS}, {share:.0%} pass a filter"
        compare(report, {name: search(store, where=f"price < {share}")}, queries, truth)


def published(report: Report, folder: Path, ids: list[str], items: Vectors) -> ItemStore:
    """Return a store of the items, and beside their vectors a price to filter by."""
    store = ItemStore.create(folder)
    started = perf_counter()
    first = store.publish_vectors(ids, items, dims=DIMS)
    way = first.description["search"]
    report.line("publish: s", significant(perf_counter() - started), of={"way": way})
    table = pa.table({"item_id": ids, "title": ids, "price": prices(len(ids))})
    pinned = {**first.tables, "items": store.tables.replace("items", table)}
    parts = (first.space_id, first.basis_id, first.refresh_id, first.inputs)
    releases.publish(store.tables, releases.Draft(*parts, pinned, first.description, {}))
    store.refresh()
    return store


def prices(n: int) -> NDArray[np.float64]:
    """Return n numbers between 0 and 1."""
    return np.random.default_rng(SEED + 1).random(n)


def search(store: ItemStore, where: str | None = None) -> Search:
    """Return our search at the full width."""
    return lambda query: store.search(query, k=K, where=where)["item_id"].to_pylist()


def lancedb_search(report: Report, folder: Path, ids: list[str], items: Vectors) -> Search:
    """Return LanceDB's search, its default index built."""
    rows = pa.table({"item_id": ids, "vector": vector_array(items)})
    table = lancedb.connect(folder).create_table("items", rows)
    started = perf_counter()
    table.create_index("vector", config=IvfPq(distance_type="cosine"))
    report.line("lancedb: index: s", significant(perf_counter() - started))

    def find(query: Vectors) -> Sequence[str]:
        asked = cast(LanceVectorQueryBuilder, table.search(query)).distance_type("cosine")
        asked = asked.refine_factor(K).limit(K).select(["item_id", "_distance"])
        return asked.to_arrow()["item_id"].to_pylist()

    return find


def named(ids: list[str], scores: Vectors) -> list[str]:
    """Return the ids of the K largest scores."""
    return [ids[row] for row in np.argpartition(scores, len(scores) - K)[len(scores) - K :]]


def compare(
    report: Report,
    ways: Mapping[str, Search],
    queries: Vectors,
    truth: Sequence[Sequence[str]],
) -> None:
    """Print recall, latency and queries per second of every way; limits are those of ours."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    hits = dict.fromkeys(ways, 0)
    for query, best in zip(queries, truth, strict=True):
        for name, find in ways.items():
            started = perf_counter()
            found = find(query)
            seconds[name].append(perf_counter() - started)
            hits[name] += len({*found} & {*best})
    for name in ways:
        ours = name == OURS
        recall = hits[name] / (K * len(queries))
        report.line(f"{name}: recall@10", recall, RECALL if ours else None, least=True)
        warm = 1000 * np.array(seconds[name][WARM:])
        p50, p99 = np.percentile(warm, [50, 99])
        report.line(f"{name}: p50: ms", significant(p50), P50_MS if ours else None)
        report.line(f"{name}: p99: ms", significant(p99))
        report.line(f"{name}: queries/s, one thread", significant(1000 / warm.mean()))


def report_threads(report: Report, find: Search, queries: Vectors) -> None:
    """Print how many queries per second several threads of one process get answered."""
    with ThreadPoolExecutor(THREADS) as threads:
        started = perf_counter()
        list(threads.map(find, queries))
        each = len(queries) / (perf_counter() - started)
    report.line(f"{OURS}: queries/s, {THREADS} threads", significant(each))


if __name__ == "__main__":
    sys.exit(main())
