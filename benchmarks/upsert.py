"""What an upsert of 10,000 rows costs, half of them new, beside LanceDB's bare merge_insert.

    python -m benchmarks.upsert [ROWS ...]

Into tables of 10,000, 100,000 and 1,000,000 rows unless others are named: `item_vectors` with one
view of 256 float32, and `items` with 300 characters of text. The rival writes to the same table in
turn, and opens it each time as we do; it proves nothing. Prints one JSON line per figure, medians
of 5. Exit status 1 if a limit is missed.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import BTree
from lancedb.table import LanceTable

from benchmarks.figures import Report, print_machine, significant
from matryoshka.prefix import unit
from store.schema import ITEM_FIELDS, item_vectors_table
from store.tables import Tables

BATCH, WIDTH, REPEATS, CHUNK = 10_000, 256, 5, 50_000
LIMIT = {1_000_000: 1.0}  # seconds
KEY = "item_id"
Make = Callable[[list[str], int], pa.Table]


class Timed(Tables):
    """Tables that know how long their last proof took."""

    proof = 0.0

    def _proven(
        self, table: LanceTable, key: str, mine: int, written: pa.ChunkedArray | None = None
    ) -> int:
        started = perf_counter()
        version = super()._proven(table, key, mine, written)
        self.proof = perf_counter() - started
        return version


def main() -> int:
    """Measure every table at every size named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    report = Report(limited=True)
    print_machine("lancedb", "pylance")
    for n in parser.parse_args().rows:
        for name, make in {"item_vectors": item_vectors, "items": items}.items():
            with TemporaryDirectory() as folder:
                measure(report, Timed(Path(folder)), name, make, n)
    return report.status()


def measure(report: Report, tables: Timed, name: str, make: Make, n: int) -> None:
    """Print what upserts into a table of n rows cost, without an index and with one on the key."""
    what = f"upsert of {BATCH} into {n} {name}"
    tables.replace(name, _stream(make, n))
    ours, proofs, bare = [], [], []
    for batch in _batches(make, n, range(2 * REPEATS)):
        if len(ours) == len(bare):
            ours.append(seconds(lambda rows=batch: tables.upsert(name, rows)))
            proofs.append(tables.proof)
        else:
            bare.append(seconds(lambda rows=batch: merge(tables.uri, name, rows)))
    report.line(f"{what}: s", significant(median(ours)), LIMIT.get(n))
    report.line(f"{what}: s of it the proof", significant(median(proofs)))
    report.line(f"{what}: bare merge_insert: s", significant(median(bare)))
    report.line(f"{what}: ours / bare", significant(median(ours) / median(bare)))
    upkeep = seconds(lambda: tables.maintain({}))
    report.line(f"upkeep of {n} {name} after {2 * REPEATS} upserts: s", significant(upkeep))
    lancedb.connect(tables.uri).open_table(name).create_index(KEY, config=BTree())
    indexed = [
        seconds(lambda rows=batch: tables.upsert(name, rows))
        for batch in _batches(make, n, range(2 * REPEATS, 3 * REPEATS))
    ]
    report.line(f"{what} with an index on the key: s", significant(median(indexed)), LIMIT.get(n))


def merge(uri: str, name: str, rows: pa.Table) -> None:
    """Upsert as LanceDB's documentation does it."""
    table = lancedb.connect(uri).open_table(name)
    merge = table.merge_insert(KEY).when_matched_update_all().when_not_matched_insert_all()
    merge.execute(rows.cast(table.schema))


def seconds(step: Callable[[], object]) -> float:
    """Return how long a step takes."""
    started = perf_counter()
    step()
    return perf_counter() - started


def item_vectors(ids: list[str], seed: int) -> pa.Table:
    """Return rows of `item_vectors` with one view."""
    random = np.random.default_rng(seed)
    return item_vectors_table(ids, {"fused": unit(random.standard_normal((len(ids), WIDTH), "f4"))})


def items(ids: list[str], seed: int) -> pa.Table:
    """Return rows of `items` without pictures."""
    texts = {"title": 40, "text": 300, "text_hash": 32, "row_hash": 32}
    columns = {
        name: [f"{seed}-{i}-{'x' * size}"[:size] for i in ids] for name, size in texts.items()
    }
    columns[KEY], absent = ids, [None] * len(ids)
    schema = pa.schema(ITEM_FIELDS)
    return pa.table({field.name: columns.get(field.name, absent) for field in schema}, schema)


def _batches(make: Make, n: int, seeds: range) -> Iterator[pa.Table]:
    """Yield one batch per seed: half of it ids that exist, half of it ids that never did."""
    for seed in seeds:
        known = np.random.default_rng(seed).choice(n, min(n, BATCH // 2), replace=False)
        fresh = [f"new-{seed}-{number}" for number in range(BATCH - len(known))]
        yield make([f"item-{number}" for number in known] + fresh, seed)


def _stream(make: Make, n: int) -> pa.RecordBatchReader:
    ids = [f"item-{number}" for number in range(n)]
    parts = (make(ids[start : start + CHUNK], start) for start in range(0, n, CHUNK))
    batches = (batch for part in parts for batch in part.to_batches())
    return pa.RecordBatchReader.from_batches(make([], 0).schema, batches)


if __name__ == "__main__":
    sys.exit(main())
