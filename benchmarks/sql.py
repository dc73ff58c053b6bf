"""SQL on a million items: milliseconds of typical queries on a warm store, beside plain DuckDB.

    python -m benchmarks.sql [--folder FOLDER]

Prints one JSON line per figure: figure, value, limit (null where none was set), met; exits with 1
if a limit is missed. The rival is DuckDB over `lance.dataset` in this process, without any limit
or isolation; the two take turns. The store is built in the folder and found there the next time;
without a folder it is a temporary one.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import duckdb
import numpy as np
import pyarrow as pa

from benchmarks.figures import Report, print_machine, significant
from benchmarks.items import item_ids, made
from store import ItemStore, releases
from store.own import draft_of
from store.tables import Tables

N, WIDTH, CATEGORIES, SEED = 1_000_000, 32, 40, 20
ROUNDS = 15
LIMIT_MS = 50
FILTERED = "SELECT item_id, title, price FROM items WHERE category = 'category 7' LIMIT 10"
OTHERS = {
    "no row passes the filter": FILTERED.replace("category 7", "none"),
    "group by": "SELECT category, count(*), avg(price) FROM items GROUP BY 1",
    "count": "SELECT count(*) FROM items",
    "one vector by id": "SELECT fused FROM item_vectors WHERE item_id = '{item}'",
    "cosine top 10": (
        "SELECT item_id, cosine(fused, (SELECT fused FROM item_vectors WHERE item_id = '{item}'))"
        " AS score FROM item_vectors ORDER BY score DESC LIMIT 10"
    ),
}


def main() -> int:
    """Build the store or find it, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the store is, or is built")
    given: Path | None = parser.parse_args().folder
    report = Report(limited=True, items=N)
    print_machine("duckdb", "pylance", "pyarrow")
    with nullcontext(given) if given else tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        uri = made(root / f"sql-{N}", publish)
        report.line("first query of a process: s", significant(cold_seconds(uri)))
        measure(uri, report)
    return report.status()


def publish(folder: Path) -> None:
    """Publish N items with a category, a title, a price, and a vector of WIDTH numbers each."""
    tables, ids, random = Tables(folder), item_ids(N), np.random.default_rng(SEED)
    categories = np.array([f"category {number}" for number in range(CATEGORIES)])
    items = pa.table(
        {
            "item_id": ids,
            "title": [f"A title of item {row}" for row in range(N)],
            "category": categories[random.integers(0, CATEGORIES, N)],
            "price": random.random(N) * 100,
        }
    )
    vectors = random.standard_normal((N, WIDTH), np.float32)
    with tables.lock():
        version = tables.replace("items", items)
        names = {"view": "fused", "space": "benchmark"}
        draft = draft_of(tables, None, ids, vectors, context=None, dims=None, **names)
        pins = {**draft.tables, "items": version}
        releases.publish(tables, replace(draft, tables=pins))


def cold_seconds(uri: Path) -> float:
    """Return what the first query costs a process: loading the store, and starting the worker."""
    code = (
        "import sys, time; start = time.perf_counter(); from store import ItemStore;"
        "ItemStore.open(sys.argv[1]).sql(sys.argv[2]); print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", code, str(uri), FILTERED]
    return statistics.median(
        float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        for _ in range(3)
    )


def measure(uri: Path, report: Report) -> None:
    """Print the median of each query; of the filter with a limit, the rival's too."""
    store = ItemStore.open(uri)
    rival = plain_duckdb(uri, store.release.tables["items"])
    ours, plain = turns(lambda: store.sql(FILTERED), rival)
    report_ms(report, "filter and limit", ours, LIMIT_MS)
    report_ms(report, "filter and limit: plain DuckDB in process", plain)
    item = item_ids(N)[N // 2]
    for name, sql in OTHERS.items():
        statement = sql.format(item=item)
        (times,) = turns(lambda statement=statement: store.sql(statement))
        report_ms(report, name, times)


def plain_duckdb(uri: Path, version: int) -> Callable[[], object]:
    """Return the filtered query on one open connection and dataset, in this process."""
    connection = duckdb.connect()
    connection.register("items", Tables(uri).dataset("items", version=version))
    return lambda: connection.sql(FILTERED).to_arrow_table()


def turns(*calls: Callable[[], object]) -> list[list[float]]:
    """Return what ROUNDS turns of each call took, in ms, ascending; a first one is not counted."""
    taken: list[list[float]] = [[] for _ in calls]
    for turn in range(ROUNDS + 1):
        for call, times in zip(calls, taken, strict=True):
            started = perf_counter()
            call()
            if turn:
                times.append((perf_counter() - started) * 1e3)
    return [sorted(times) for times in taken]


def report_ms(
    report: Report, query: str, times: Sequence[float], limit: float | None = None
) -> None:
    """Print the median of ascending times, with the least and the most."""
    spread = {"least": significant(times[0]), "most": significant(times[-1])}
    report.line(f"{query}: ms", significant(statistics.median(times)), limit, of=spread)


if __name__ == "__main__":
    sys.exit(main())
