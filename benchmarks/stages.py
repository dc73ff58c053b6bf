"""Stages of a long measurement: each computed once, and kept under what it was made from.

A stage is a file of named arrays whose name holds a digest of its inputs, so that a changed input
is another stage and nothing has to be deleted. Stages that do not wait for each other are computed
side by side, in processes. It does not know what the figures mean.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, partial
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from alignment import sasrec
from alignment.consumer import Ranks, rank, trial
from alignment.evaluate import Roles
from alignment.floors import Ranked
from alignment.interactions import Split
from alignment.softmax import fastest

FORMAT = 1  # raise it when what a stage holds, or how it is computed, changes
PROCESSES = 2
# What fits vectors; the rest of these packages only judges them.
FITTING = ("alignment", "matryoshka")
JUDGING = ("cold", "evaluate", "floors", "sasrec", "statistics", "versions")
READING = ("consumer", "interactions", "prefix", "sasrec", "softmax", "train")  # consumer B
Arrays = Mapping[str, NDArray[Any]]
Make = Callable[[], Arrays]


class Stages:
    """A folder of computed stages, and how many processes compute those that can go on at once."""

    def __init__(self, folder: Path, processes: int = PROCESSES) -> None:
        self.folder, self.processes = folder, processes
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str, made_from: object) -> Path:
        """Say where a stage is, or will be."""
        return self.folder / f"{name}-{digest(FORMAT, made_from)}.npz"

    def keep(self, name: str, made_from: object, make: Make) -> Arrays:
        """Return the arrays of a stage, made now if they never were."""
        path = self.path(name, made_from)
        if not path.exists():
            started = perf_counter()
            write(path, make())
            tell(f"{path.stem}: {perf_counter() - started:.1f} s")
        return read(path)

    def keep_each(self, name: str, wanted: Iterable[tuple[object, Make]]) -> list[Arrays]:
        """Return the arrays of stages; several that never were made are made side by side.

        wanted: what each is made from, and how; both can be sent to another process.
        """
        wanted = list(wanted)
        self.make(name, wanted)
        return [self.keep(name, *each) for each in wanted]

    def make(self, name: str, wanted: Iterable[tuple[object, Make]]) -> None:
        """Make stages side by side for `keep` to find; one alone is left to it."""
        by_path = {self.path(name, each[0]): each for each in wanted}
        missing = [each for path, each in by_path.items() if not path.exists()]
        if min(self.processes, len(missing)) < 2:
            return
        os.environ["OMP_NUM_THREADS"] = "1"  # read by the new processes when they import torch
        with ProcessPoolExecutor(
            self.processes, get_context("spawn"), torch.set_num_threads, (1,)
        ) as pool:
            asked = [pool.submit(_keep, self, name, *each) for each in missing]
            try:
                for done, each in enumerate(as_completed(asked), 1):
                    each.result()
                    tell(f"{name}: {done} of {len(asked)}")
            finally:
                pool.shutdown(cancel_futures=True)

    def keep_ranks(
        self, name: str, made_from: object, make: Callable[[], Sequence[Ranked]]
    ) -> list[Ranked]:
        """Return the ranks of a stage, made now if they never were."""
        return unpacked(self.keep(name, made_from, lambda: packed(make())))


def _keep(stages: Stages, name: str, made_from: object, make: Make) -> None:
    stages.keep(name, made_from, make)


def tell(what: str) -> None:
    """Say on stderr what is going on."""
    print(what, file=sys.stderr, flush=True)


def write(path: Path, arrays: Arrays) -> None:
    """Write arrays so that the file is there whole or not at all."""
    draft, savez = path.with_suffix(".draft"), cast(Any, np.savez)  # typed for one more option
    with draft.open("wb") as file:
        savez(file, **arrays)
    draft.rename(path)


def read(path: Path) -> Arrays:
    """Read what `write` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def packed(found: Sequence[Ranked]) -> Arrays:
    """Make named arrays of ranks."""
    return {
        f"{each.vectors}|{each.dim or ''}|{kind}": getattr(each.ranks, kind)
        for each in found
        for kind in ("unmasked", "masked")
    }


def unpacked(arrays: Arrays) -> list[Ranked]:
    """Make ranks of named arrays, in their order."""
    names = dict.fromkeys(name.rpartition("|")[0] for name in arrays)
    return [
        Ranked(
            name.partition("|")[0],
            int(dim) if (dim := name.partition("|")[2]) else None,
            Ranks(arrays[f"{name}|unmasked"], arrays[f"{name}|masked"]),
        )
        for name in names
    ]


def digest(*parts: object) -> str:
    """Return a hex digest of values: arrays, dataclasses, sparse matrices, whatever has a repr."""
    total = blake2b(digest_size=10)
    for part in parts:
        _add(total, part)
    return total.hexdigest()


def _add(total: blake2b, part: Any) -> None:
    if isinstance(part, np.ndarray):
        total.update(f"{part.dtype} {part.shape}".encode())
        total.update(np.ascontiguousarray(part).tobytes())
    elif is_dataclass(part):
        _add(total, [type(part).__name__, *(getattr(part, each.name) for each in fields(part))])
    elif sparse.issparse(part):
        _add(total, [part.shape, part.data, part.indices, part.indptr])
    elif isinstance(part, list | tuple):
        total.update(f"[{len(part)}".encode())
        for each in part:
            _add(total, each)
    else:
        total.update(repr(part).encode())


@cache
def sources(*named: str) -> str:
    """Return a digest of source code, and of the dtype that trainings multiply in here.

    named: modules of alignment and matryoshka, or "benchmarks.reach"; without, all that fits
    vectors.
    """
    root = Path(__file__).resolve().parents[1]
    files = {p.stem: p for name in FITTING for p in sorted((root / name).glob("*.py"))}
    if named:
        chosen = [files.get(name, root / f"{name.replace('.', '/')}.py") for name in named]
    else:
        chosen = [path for stem, path in files.items() if stem not in JUDGING]
    return digest(str(fastest()), [(path.name, path.read_bytes()) for path in chosen])


@dataclass(frozen=True, slots=True)
class Reading:
    """One run of consumer B: what it reads, in both roles (None: it learns a vector per item)."""

    vectors: str
    dim: int | None
    roles: Roles | None
    seed: int
    dropout: float


@dataclass(frozen=True, slots=True)
class Read:
    """The ranks of a run's test targets, its validation N@10, and what training took."""

    ranked: Ranked
    validation: float
    seconds: float


def readings(stages: Stages, runs: Sequence[Reading], split: Split) -> list[Read]:
    """Run consumer B as often as asked; runs made before are read."""
    wanted = [((sources(*READING), run, split), partial(measured, run, split)) for run in runs]
    found = stages.keep_each("b", wanted)
    return [_read(run, arrays) for run, arrays in zip(runs, found, strict=True)]


def measured(run: Reading, split: Split) -> Arrays:
    """Train consumer B and rank the test targets."""
    if run.roles is None:
        trained = sasrec.train_ids(split, seed=run.seed, dropout=run.dropout)
    else:
        trained = sasrec.train(*run.roles, split, seed=run.seed, dropout=run.dropout)
    ranks = rank(trained.score, trial(split, on="test"))
    took = np.array([trained.validation, trained.seconds])
    return {"unmasked": ranks.unmasked, "masked": ranks.masked, "took": took}


def _read(run: Reading, arrays: Arrays) -> Read:
    ranks = Ranks(arrays["unmasked"], arrays["masked"])
    validation, seconds = arrays["took"]
    return Read(Ranked(run.vectors, run.dim, ranks), float(validation), float(seconds))
