"""What behaviour costs as the log grows: counting co-visits, factorising them, training twice.

    python -m benchmarks.behaviour [--events 100000 1000000 10000000] [--dim 256]

Prints one JSON line per figure, after one that describes the machine: seconds and the peak memory
of a fresh process. A fit trains twice at once, on a core each, and so does this. A user has ten
events in the mean and hundreds at most; there is an item per hundred events. What users take is
drawn within a taste of theirs, the item of popularity rank r with a chance of r^-0.5.
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from time import perf_counter

import numpy as np

from alignment.collaborative import DEFAULT_RECIPE, balanced, covisits, from_triples, singular
from alignment.fuse import Dial
from alignment.interactions import Sequences
from alignment.residuals import DEFAULT_SCHEDULE, train
from benchmarks.figures import Report, print_machine, significant
from encoders.room import process_peak
from matryoshka.train import at_once

EVENTS = (100_000, 1_000_000, 10_000_000)
EVENTS_PER_USER, EVENTS_PER_ITEM = 10, 100
TASTES, OWN = 50, 0.8  # a user's own taste has this share of the user's events
SEED = 7
DIMS = (32, 64, 128)
MOST_GIB = 4.0


def main() -> int:
    """Measure the sizes named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, nargs="+", default=EVENTS)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(asked.events[0], asked.dim)))
        return 0
    report = Report(limited=True)
    print_machine("numpy", "scipy", "torch")
    for events in asked.events:
        command = [sys.executable, "-m", "benchmarks.behaviour", "--one"]
        command += ["--events", str(events), "--dim", str(asked.dim)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout)
        of = {"events": events, **row.pop("of")}
        for figure, value in row.items():
            limit = MOST_GIB if figure.endswith("GiB") else None
            report.line(figure, significant(value), limit, of=of)
    return report.status()


def measured(events: int, dim: int) -> dict[str, object]:
    """Count, factorise and train on a log of so many events; seconds, and peaks so far in GiB."""
    seq = generated(events)
    before, started = process_peak(), perf_counter()
    counts = covisits(seq, window=DEFAULT_RECIPE.window, decay=DEFAULT_RECIPE.decay)
    counted, counting, found = perf_counter(), process_peak(), int(counts.nnz)
    triples = singular(balanced(counts, DEFAULT_RECIPE), dim, seed=SEED)
    known = from_triples(triples, seq.support, dim=dim, power=DEFAULT_RECIPE.power)
    del counts, triples
    factorised, factorising = perf_counter(), process_peak()
    rows = np.ascontiguousarray(known.context[:, 1:]), np.ascontiguousarray(known.target[:, 1:])
    dims = [d for d in DIMS if d < dim] + [dim]
    training = partial(train, *rows, seq, dims, recency=DEFAULT_RECIPE.recency, dial=Dial())
    at_once(partial(training, seed=SEED), partial(training, seed=SEED + 1))
    return {
        "count: s": counted - started,
        "count: peak GiB": counting / 2**30,
        "factorise: s": factorised - counted,
        "factorise: peak GiB": factorising / 2**30,
        "two trainings: s": perf_counter() - factorised,
        "two trainings: peak GiB": process_peak() / 2**30,
        "of": {
            "interactions": len(seq.items),
            "users": seq.n_users,
            "items": seq.n_items,
            "longest": seq.longest,
            "counts": found,
            "steps": DEFAULT_SCHEDULE.length(seq),
            "dim": dim,
            "peak GiB before": significant(before / 2**30),
        },
    }


def generated(events: int) -> Sequences:
    """Return a log of about so many events, the same for the same number."""
    rng = np.random.default_rng(SEED)
    n_users, n_items = max(1, events // EVENTS_PER_USER), max(TASTES, events // EVENTS_PER_ITEM)
    lengths = np.ceil(rng.lognormal(np.log(EVENTS_PER_USER) - 0.5, 1.0, n_users)).astype(int)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    total = int(indptr[-1])
    rank = (n_items * rng.random(total) ** 2).astype(np.int64)
    taste = np.repeat(rng.integers(0, TASTES, n_users), lengths)
    foreign = rng.random(total, dtype=np.float32) > OWN
    taste[foreign] = rng.integers(0, TASTES, np.count_nonzero(foreign))
    items = np.minimum(rank - rank % TASTES + taste, n_items - 1).astype(np.int32)
    return Sequences(indptr, items, np.arange(total), n_items)


if __name__ == "__main__":
    sys.exit(main())
