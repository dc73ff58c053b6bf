"""The whole pipeline on one catalogue: seconds, memory, recall, and what a second run costs.

    python -m benchmarks.pipeline [CATALOGUE FOLDER]

Each run is a fresh process of the `itemnest` program on a fresh store in a temporary folder.
Prints one JSON line per figure: figure, value, limit (null where none was set), met. Without a
folder it measures the generated sample shop, which is written first and not timed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from assets.sample import write_sample
from assets.settings import write_default
from store import ItemStore

GIB = 2**30
# Seconds for a first run on 2 cores without a GPU, and item-kNN's recall@20 (leave-last-out, seen
# items left out) as measured once beside the data sets.
LIMITS: dict[str, Mapping[str, float]] = {
    "sample": {"seconds": 180},
    "xwines": {"seconds": 180, "item-knn": 0.348, "popularity": 0.164, "text": 0.116},
    "movielens_posters": {"seconds": 900, "item-knn": 0.098, "popularity": 0.075, "text": 0.015},
    "online_retail": {"item-knn": 0.186, "popularity": 0.084, "text": 0.140},
    "amazon_beauty": {"item-knn": 0.091, "popularity": 0.021, "text": 0.088},
}
HEAVY = ("torch", "dagster", "PIL", "transformers")


def main() -> None:
    """Measure the catalogue named on the command line, or the sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("catalogue", nargs="?", type=Path, help="default: the generated sample")
    catalogue: Path | None = parser.parse_args().catalogue
    name = catalogue.resolve().name if catalogue else "sample"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if catalogue is None:
            catalogue = root / "catalogue"
            write_sample(catalogue)
        settings = root / "itemnest.toml"
        write_default(settings, catalogue=str(catalogue.resolve()), store="store")
        limits = LIMITS.get(name, {})
        machine = (
            f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        )
        print(json.dumps({"catalogue": name, "machine": machine}))
        first = run(settings)
        report_run("first run", first, limits.get("seconds"))
        second = run(settings)
        report_second(second)
        store = ItemStore.open(root / "store")
        line("releases after two runs", len(store.releases()), 1)
        report_quality(store, limits)
    line("heavy modules loaded by import store", ",".join(heavy_imports()) or "none", "none")


def run(settings: Path) -> dict[str, Any]:
    """Run `itemnest materialize` in a fresh process; return its assets, seconds and peak bytes."""
    program = Path(sys.executable).with_name("itemnest")
    started = perf_counter()
    command = [str(program), "materialize", "--settings", str(settings), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds = perf_counter() - started
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    assets = {row["asset"]: row for row in lines if "asset" in row}
    return {"assets": assets, "seconds": seconds, "peak_bytes": lines[-1]["peak_bytes"]}


def report_run(which: str, outcome: Mapping[str, Any], limit: float | None) -> None:
    """Print seconds per asset and in all, and the peak memory of the process."""
    for name, row in outcome["assets"].items():
        line(f"{which}: {name}: s", round(row["seconds"], 1))
    line(f"{which}: whole process: s", round(outcome["seconds"], 1), limit)
    line(f"{which}: peak memory: GiB", round(outcome["peak_bytes"] / GIB, 2), 4)
    line(f"{which}: items", outcome["assets"]["items"]["dagster/row_count"])


def report_second(outcome: Mapping[str, Any]) -> None:
    """Print what a run over an unchanged catalogue costs."""
    encoded = sum(outcome["assets"][name]["encoded"] for name in ("text_vectors", "image_vectors"))
    line("second run: whole process: s", round(outcome["seconds"], 1), 20)
    line("second run: items encoded", encoded, 0)


def report_quality(store: ItemStore, limits: Mapping[str, float]) -> None:
    """Print recall@20 of the fused view and of every floor, and the floors known beforehand."""
    rows = store.release.quality["rows"]
    for row in rows:
        if row["split"] == "test" and row["masked"]:
            dim = f" {row['dim']}-d" if row["dim"] else ""
            figure = f"{row['slice']} R@20: {row['vectors']}{dim}"
            line(figure, round(row["R@20"], 4), spread=round(row["se"], 4))
    fused = recall(rows, "fused", 128)
    for floor in ("item-knn", "popularity", "text"):
        if fused is not None and floor in limits:
            line(
                f"fused 128-d R@20 above {floor} as published",
                round(fused, 4),
                limits[floor],
                up=True,
            )


def recall(rows: Sequence[Mapping[str, Any]], vectors: str, dim: int) -> float | None:
    """Return warm test recall@20 without seen items of these vectors at this dim."""
    for row in rows:
        wanted = (vectors, dim, "warm", "test", True)
        if (row["vectors"], row["dim"], row["slice"], row["split"], row["masked"]) == wanted:
            return row["R@20"]
    return None


def heavy_imports() -> list[str]:
    """Return which heavy modules a fresh process has after `import store`."""
    code = f"import sys, store; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.split()


def line(
    figure: str,
    value: float | str,
    limit: float | str | None = None,
    *,
    up: bool = False,
    spread: float | None = None,
) -> None:
    """Print one figure; `up` means that more than the limit is asked for."""
    row: dict[str, Any] = {"figure": figure, "value": value, "limit": limit}
    if spread is not None:
        row["se"] = spread
    if isinstance(limit, str):
        row["met"] = value == limit
    elif limit is not None:
        row["met"] = float(value) > limit if up else float(value) <= limit
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
