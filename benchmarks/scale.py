"""What the driver of an encoding run costs as items grow: the parts that no worker takes over.

    python -m benchmarks.scale [--items 100000 1000000]

Prints one JSON line per figure, after one that describes the machine. docs/scale.md makes of them
what a catalogue of a billion would cost. Rows are as the default text tower's: 384 x float16.

settle     Seconds and peak memory of a run over n items of which none has changed: reading hashes,
           keys of what there is, comparing.
commit     Milliseconds to append a batch of 512 to a table of n rows, keys known to be absent.
fragments  Rows per second that one process writes as fragments nobody sees yet, and milliseconds of
           the one commit that makes all of them visible.
transport  Milliseconds per batch of 512 outcomes to come from a Ray worker to the driver.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from assets.encode import encode
from assets.lake import open_lake
from benchmarks.catalogues import DATASETS, settings_of
from benchmarks.figures import Report, print_machine, significant
from encoders.encoder import Outcome
from encoders.engine import LocalEngine
from encoders.registry import tower
from encoders.room import process_peak
from store.schema import items_schema, vector_array, vector_key, vectors_schema

DIM, BATCH = 384, 512
WRITTEN = 100_000  # rows per write
COMMITS, FRAGMENTS = 20, 50
SEED = 5


def main() -> int:
    """Measure the sizes named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--one", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(settled(asked.one)))
        return 0
    report = Report(limited=False)
    print_machine("lancedb", "pylance", "pyarrow")
    for count in asked.items:
        with tempfile.TemporaryDirectory() as folder:
            measure(report, Path(folder), count)
    with tempfile.TemporaryDirectory() as folder:
        fragments(report, Path(folder))
    transport(report)
    return report.status()


def measure(report: Report, folder: Path, count: int) -> None:
    """Print what a settled run and what a commit cost with so many items."""
    fill(folder, count)
    command = [sys.executable, "-m", "benchmarks.scale", "--one", str(folder)]
    for which in ("first", "settled"):  # the first one records the build
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        assert figures["encoded"] == 0, figures
        of = {"items": count, "peak GiB": significant(figures["peak_bytes"] / 2**30)}
        report.line(f"settle: s, {which} run", significant(figures["seconds"]), of=of)
    with open_lake(settings_of(folder, DATASETS)) as lake:
        at, took = lake.tables.dataset("text_vectors").version, []
        for number in range(COMMITS):
            rows = vectors(count + number * BATCH, BATCH, "d" * 32)
            started = perf_counter()
            at = lake.tables.append("text_vectors", rows, absent_at=at)
            took.append(1000 * (perf_counter() - started))
    report.line("commit: ms", significant(median(took)), of={"items": count})


def fill(folder: Path, count: int) -> None:
    """Write a store of so many items, all of whose texts are encoded."""
    digest = tower("minilm-l6", "text").digest
    with open_lake(settings_of(folder, DATASETS)) as lake:
        for first in range(0, count, WRITTEN):
            numbers = range(first, min(first + WRITTEN, count))
            texts = [f"{n:032x}" for n in numbers]
            items = {
                "item_id": [f"I{n:09}" for n in numbers],
                "text": [f"item number {n}" for n in numbers],
                "text_hash": texts,
                "row_hash": texts,
            }
            schema = items_schema()
            table = pa.table(
                [items.get(f.name, pa.nulls(len(numbers), f.type)) for f in schema], schema=schema
            )
            lake.tables.append("items", table)
            lake.tables.append("text_vectors", vectors(first, len(numbers), digest))
        lake.record("items", f"{count} items", lake.versions("items"), {"rows": count})


def vectors(first: int, count: int, digest: str) -> pa.Table:
    """Return rows of text_vectors for items from `first` on."""
    numbers = range(first, first + count)
    ids, hashes = pa.array([f"I{n:09}" for n in numbers]), pa.array([f"{n:032x}" for n in numbers])
    random = np.random.default_rng(SEED).standard_normal((count, DIM)).astype(np.float16)
    schema = vectors_schema(DIM)
    columns: dict[str, Any] = {
        "key": vector_key(ids, digest, hashes),
        "item_id": ids,
        "encoder": pa.array([digest] * count),
        "content_hash": hashes,
        "cut_tokens": pa.array(np.zeros(count, np.int32)),
        "vector": vector_array(random),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


def settled(folder: Path) -> dict[str, float]:
    """Run the text step on a store of which all is encoded; return what it took."""
    with open_lake(settings_of(folder, DATASETS)) as lake:
        started = perf_counter()
        build = encode(lake, LocalEngine(), "text")
        took = perf_counter() - started
    return {"seconds": took, "peak_bytes": process_peak(), "encoded": build.metadata["encoded"]}


def fragments(report: Report, folder: Path) -> None:
    """Print what workers would spend on writing for themselves, and the driver on one commit."""
    uri = str(folder / "vectors.lance")
    lance.write_dataset(vectors(0, 1, "d").slice(0, 0), uri)
    rows = vectors(0, WRITTEN // 10, "d" * 32)
    started = perf_counter()
    written: list[Any] = []
    for _ in range(FRAGMENTS):
        written += lance.fragment.write_fragments(rows, uri, schema=rows.schema, mode="append")
    speed = FRAGMENTS * len(rows) / (perf_counter() - started)
    report.line("fragments: rows/s written by one process", significant(speed))
    started = perf_counter()
    append = lance.LanceOperation.Append(written)
    lance.LanceDataset.commit(uri, append, read_version=1)
    took = significant(1000 * (perf_counter() - started))
    report.line("fragments: ms of one commit", took, of={"fragments": len(written)})


def transport(report: Report) -> None:
    """Print what it costs to get a batch of outcomes from a worker's process."""
    from assets.cluster import RayCluster

    options = {"num_cpus": 1, "include_dashboard": False, "log_to_driver": False}
    RayCluster(ray_init_options=options).connect(None)
    import ray  # the cluster's token is set by now

    rows = np.random.default_rng(SEED).standard_normal((BATCH, DIM)).astype(np.float32)
    send = ray.remote(lambda: [Outcome(row) for row in rows])
    ray.get(send.remote())
    started = perf_counter()
    for _ in range(COMMITS):
        ray.get(send.remote())
    took = 1000 * (perf_counter() - started) / COMMITS
    ray.shutdown()
    report.line("transport: ms per batch", significant(took), of={"items": BATCH})


if __name__ == "__main__":
    sys.exit(main())
