"""Look-ups of item vectors by id: against np.take with the row numbers known, and against rivals.

    python -m benchmarks.lookup [--items 1000000] [--folder FOLDER]
    python -m benchmarks.lookup --scale docs/lookup.svg

Prints one JSON line per figure, after one that describes the machine; exit status 1 if a limit is
missed. The limits are those of a million items; no other number of items has any.

A look-up takes a list of strings and returns float32 [n, 128] in the order asked, everything warm.
np.take reads the same rows, their numbers known, from a mapped file. Ids are random, new ones at
every call, repeats possible. Strings are fresh, as they come out of a decoded request, but in the
figures "ids held for long": there they were made long ago and lie scattered in cold memory.
Methods take turns inside one process; a figure is a median over `repeats` calls, fewer for the
rivals, which are slow. `benchmarks/rivals.py` says what each rival does. Every answer is compared
with the truth before anything is timed.

--scale runs 10^4, 10^5 and 10^6 items, each in a process of its own, and draws what they cost.
"""

import argparse
import gc
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Report, print_machine, significant
from benchmarks.items import DIM, SEED, Items, made_items
from benchmarks.plot import draw
from benchmarks.rivals import RIVALS, UNORDERED
from store import ItemStore

Rows: TypeAlias = NDArray[np.int64]
Vectors: TypeAlias = NDArray[np.float32]
Seconds: TypeAlias = NDArray[np.float64]
Ways: TypeAlias = Mapping[str, Callable[[Any], Vectors]]  # FLOOR takes Rows, the others ids

MILLION = 1_000_000
SIZES = (10_000, 100_000, MILLION)
DISTRIBUTIONS = ("numpy", "pyarrow", "lancedb", "pylance", "duckdb", "lmdb", "redis", "hiredis")
FLOOR, OURS, LANCEDB = "np.take", "itemnest", "lancedb"
CHUNK = 100_000  # items read at once while warming
SLACK = 1e-6  # between coordinates that were rounded to float32 in different places


class Plan(NamedTuple):
    """How often to ask for that many ids, and what our answer may cost."""

    ids: int
    repeats: int
    rival_repeats: int
    ratio: float  # to np.take, at most
    speedup: float  # over LanceDB, at least


PLANS = (
    Plan(1, 2001, 101, 8, 100),
    Plan(100, 1001, 51, 3.5, 50),
    Plan(10_000, 31, 9, 2.0, 30),
    Plan(100_000, 11, 2, 2.0, 15),
)
INDEX_MB, BUILD_S, OPEN_MS, WHOLE = 48, 1.5, 50, 0.8
BUILDS, OPENS, WHOLES = 3, 9, 9

# In a fresh process that has imported everything: open the store and read one vector.
OPEN = f"""
import sys, lance, lancedb
from time import perf_counter
from store import ItemStore
started = perf_counter()
ItemStore.open(sys.argv[1]).get_item_vectors([sys.argv[2]], dim={DIM})
print(perf_counter() - started)
"""


def main() -> int:
    """Measure one number of items, or all sizes with a picture; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=int, default=MILLION)
    parser.add_argument("--folder", type=Path, help="where to build, and keep; else temporary")
    parser.add_argument("--scale", type=Path, metavar="PICTURE", help="10^4 to 10^6 items, drawn")
    asked = parser.parse_args()
    if asked.scale:
        return scale(asked.scale, asked.folder)
    if asked.items < 1:
        parser.error(f"--items {asked.items}: at least 1")
    print_machine(*DISTRIBUTIONS)
    report = Report(limited=asked.items == MILLION, items=asked.items)
    with tempfile.TemporaryDirectory() as temporary:
        measure(report, (asked.folder or Path(temporary)) / str(asked.items), asked.items)
    return report.status()


def scale(picture: Path, folder: Path | None) -> int:
    """Run every size in a fresh process, pass its lines on and draw them."""
    lines: list[dict[str, Any]] = []
    status = 0
    for size in SIZES:
        command = [sys.executable, "-m", "benchmarks.lookup", "--items", str(size)]
        command += ["--folder", str(folder)] if folder else []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            for text in run.stdout or ():
                print(text, end="", flush=True)
                lines.append(json.loads(text))
        status = max(status, abs(run.returncode))
    draw(lines, picture)
    return status


def measure(report: Report, folder: Path, n: int) -> None:
    """Print every figure for n items, built below the folder."""
    items = made_items(folder, n)
    report_pack(report, folder / "store", items)
    store = ItemStore.open(folder / "store")
    plans = [plan for plan in PLANS if plan.ids <= n]
    ways: dict[str, Callable[[Any], Vectors]] = {
        FLOOR: partial(np.take, items.vectors, axis=0),
        OURS: partial(store.get_item_vectors, dim=DIM),
    }
    with ExitStack() as rivals:
        for rival in RIVALS:
            ways.update(rivals.enter_context(rival(folder, items)))
        warm(items, ways)
        for plan in plans:
            report_lookups(report, items, ways, plan)
        for plan in plans:
            report_held(report, items, ways, plan)
    report_whole(report, store, folder / "floor" / "vectors.f32")


def report_pack(report: Report, folder: Path, items: Items) -> None:
    """Print what it costs to build the pack, to open a built one, and to keep its index.

    Building is `ItemStore.open` and the first read at DIM: the index, the ids and one vector file
    are written, with their checksums. Each time is one of a fresh process, imports left out.
    """
    n = len(items.ids)
    builds, opens = [], []
    for _ in range(BUILDS):
        shutil.rmtree(folder / "packs", ignore_errors=True)
        builds.append(opened(folder, items))
    for _ in range(OPENS):
        opens.append(opened(folder, items))
    built = float(np.median(builds)) * MILLION / n
    of = {"repeats": BUILDS}
    report.line("pack: s per million items to build", significant(built), BUILD_S, of=of)
    of = {"repeats": OPENS}
    report.line("pack: ms to open", significant(float(np.median(opens)) * 1e3), OPEN_MS, of=of)
    index = significant(index_bytes(folder) / n)
    report.line("index: MB per million items", index, INDEX_MB)


def opened(folder: Path, items: Items) -> float:
    """Return the seconds that a fresh process takes to open the store and to read one vector."""
    command = [sys.executable, "-c", OPEN, str(folder), items.ids[0].as_py()]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def index_bytes(folder: Path) -> int:
    """Return the size of the one pack's id index, which a reader maps whole."""
    found = list((folder / "packs").glob("*/ids.index"))
    if len(found) != 1:
        raise FileNotFoundError(f"{len(found)} files ids.index in packs/*: one was expected")
    return found[0].stat().st_size


def warm(items: Items, ways: Ways) -> None:
    """Read every item by every method, so that none meets an untouched page while it is timed."""
    for start in range(0, len(items.ids), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(items.ids)))
        for name in ways.keys() - {UNORDERED}:  # its pages are those of the other
            prove(name, ways[name](argument(name, items, rows)), items.vectors[rows])


def argument(name: str, items: Items, rows: Rows) -> Any:
    """Return what a method is asked with: row numbers for the floor, else fresh strings."""
    return rows if name == FLOOR else items.ids.take(rows).to_pylist()


def prove(name: str, answer: Vectors, truth: Vectors) -> None:
    """Raise AssertionError unless an answer is the truth, in the order asked, repeats kept."""
    if name == UNORDERED:
        answer, truth = np.unique(answer, axis=0), np.unique(truth, axis=0)
    if answer.dtype != np.float32 or answer.shape != truth.shape:
        raise AssertionError(f"{name} answers {answer.dtype} {answer.shape}, not {truth.shape}")
    if (worst := float(np.abs(answer - truth).max())) > SLACK:
        raise AssertionError(f"{name} is off by {worst:.1e} among {len(truth)} rows")


def report_lookups(report: Report, items: Items, ways: Ways, plan: Plan) -> None:
    """Print what every method reads in a second, and how ours compares."""
    taken = take_turns(items, ways, plan)
    medians = {name: float(np.median(seconds)) for name, seconds in taken.items()}
    about = {name: {"ids": plan.ids, "repeats": len(taken[name])} for name in taken}
    for name, median in medians.items():
        of = {**about[name], "us": significant(median * 1e6)}
        report.line(f"vectors per second: {name}", round(plan.ids / median), of=of)
    ratio = significant(medians[OURS] / medians[FLOOR])
    report.line("time as a multiple of np.take", ratio, plan.ratio, of=about[OURS])
    speedup = significant(medians[LANCEDB] / medians[OURS])
    report.line("times as fast as LanceDB", speedup, plan.speedup, least=True, of=about[LANCEDB])
    if plan.repeats > 1000:
        slow = significant(float(np.quantile(taken[OURS], 0.99)) * 1e6)
        report.line("p99: us per call", slow, of=about[OURS])


def take_turns(items: Items, ways: Ways, plan: Plan) -> dict[str, Seconds]:
    """Return the seconds of every call, answers proven first."""
    rng = np.random.default_rng(SEED + plan.ids)
    n = len(items.ids)
    for name, get in ways.items():
        rows = rng.integers(0, n, plan.ids)
        prove(name, get(argument(name, items, rows)), items.vectors[rows])
    wanted = {name: plan.repeats if name in (FLOOR, OURS) else plan.rival_repeats for name in ways}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with no_collection():
        for name in turns(wanted):
            asked = argument(name, items, rng.integers(0, n, plan.ids))
            taken[name].append(seconds_of(ways[name], asked))
    return {name: np.array(seconds) for name, seconds in taken.items()}


def turns(wanted: Mapping[str, int]) -> Iterator[str]:
    """Yield names in rounds, each as often as wanted, the rare ones spread over all rounds.

    Who goes first changes from round to round, so that nobody always follows the same one.
    """
    rounds = max(wanted.values())
    for turn in range(rounds):
        due = [name for name, n in wanted.items() if turn * n // rounds > (turn - 1) * n // rounds]
        first = turn % len(due)
        yield from due[first:] + due[:first]


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector out of what is timed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def seconds_of(get: Callable[[Any], object], asked: object) -> float:
    """Return the seconds of one call; letting go of its answer is not in them."""
    started = perf_counter()
    answer = get(asked)
    seconds = perf_counter() - started
    del answer
    return seconds


def report_held(report: Report, items: Items, ways: Ways, plan: Plan) -> None:
    """Print the same ratio for strings that were made before, as those of a held catalogue are."""
    held = items.ids.to_pylist()
    rows = np.random.default_rng(SEED).integers(0, len(held), (plan.repeats, plan.ids))
    asked = [[held[row] for row in call] for call in rows]  # all, before any: cold again by then
    taken: dict[str, list[float]] = {FLOOR: [], OURS: []}
    with no_collection():
        for call, ids in zip(rows, asked, strict=True):
            taken[FLOOR].append(seconds_of(ways[FLOOR], call))
            taken[OURS].append(seconds_of(ways[OURS], ids))
    floor, ours = (float(np.median(taken[name])) for name in (FLOOR, OURS))
    us = significant(ours * 1e6)
    of = {"ids": plan.ids, "repeats": plan.repeats, "us": us}
    report.line(
        "ids held for long: time as a multiple of np.take", significant(ours / floor), of=of
    )


def report_whole(report: Report, store: ItemStore, path: Path) -> None:
    """Print how fast all vectors at DIM become an array of one's own, against `np.fromfile`."""
    ours, floor = [], []
    for _ in range(WHOLES):
        ours.append(seconds_of(lambda dim: np.array(store.item_matrix(dim).vectors), DIM))
        floor.append(seconds_of(partial(np.fromfile, dtype=np.float32), path))
    speed = significant(float(np.median(floor) / np.median(ours)))
    of = {"repeats": WHOLES, "ms": significant(float(np.median(ours)) * 1e3)}
    report.line("whole matrix: speed of np.fromfile", speed, WHOLE, least=True, of=of)


if __name__ == "__main__":
    sys.exit(main())
