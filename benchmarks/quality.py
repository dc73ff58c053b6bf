"""What a catalogue's vectors are worth, beside every floor: tables, and JSON lines of them.

    python -m benchmarks.quality CATALOGUE [--parts floors …] [--seeds 3] [--processes 2]

Leave-last-out, all items ranked, mid-rank ties, all users with three events; choices are made on
validation only. Consumer A trains nothing (alignment/consumer.py), consumer B is a small SASRec on
frozen vectors (alignment/sasrec.py). Prints a Markdown table per part and slice, then one JSON line
per limit. The rows are in FOLDER/quality.jsonl, those of a part replaced when it runs again; what
took time is in FOLDER/stages. FOLDER is data/quality/<name>, made with default settings if absent.

floors       popularity, transition counts and their SVD, item-kNN, content as its encoder gave it
views        every view at every dim
cold         a tenth of the items out of all that learns and chooses: found among all items, among
             themselves, the others beside them and, for the same users, in vectors that learnt
             all, and their share of the top 10 (fair is a tenth)
modalities   one modality alone; half of the items without one
again        users who take what they have had, and those who take something new
order        users whose last pair descends by item id (files whose ids leak the order only)
one_moment   the same floors and views on a split at one moment for everybody
night_after_night  one space kept while log and catalogue grow, where the log has times: each night
             read with the last ones
independent  fused and aligned trained for each dim alone: what a prefix must beat
reach        how far new items reach, and what it costs the others, on validation targets
terms        how fused and aligned are trained, each part changed alone, on validation targets
consumer_b   fused at every dim in consumer B, the item vectors that it learns by itself, and fused
             less these, user by user
compare      fused less each floor of its dim, user by user
posters      whether pictures help to tell what is taken together
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain, product
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from alignment.cold import cold_trials, held_out, share_in_top, without
from alignment.consumer import Floats, Trial, by_cosine, gains, hits
from alignment.evaluate import roles_of
from alignment.floors import (
    Ranked,
)
from alignment.space import ItemSpace, Views
from alignment.statistics import paired_bootstrap
from alignment.whiten import Bits
from assets.report import markdown
from benchmarks.alone import alone
from benchmarks.figures import Report, print_machine
from benchmarks.lab import Ask, Lab, Rows, Shop, load_shop, of_users
from benchmarks.limits import report_beauty, report_gains, report_nights
from benchmarks.modalities import lacking_shops, modalities, posters, shops_of_one_modality
from benchmarks.nights import night_after_night, night_shops
from benchmarks.order import ascending_share, descending_last_pair
from benchmarks.reach import reach
from benchmarks.stages import PROCESSES, Reading, Stages, readings, sources
from benchmarks.terms import terms
from benchmarks.times import at_one_moment, has_times
from matryoshka.prefix import prefix

DROPOUTS = (0.2, 0.5)
VALUES: dict[str, Callable[[Floats], Floats]] = {
    "R@10": lambda ranks: hits(ranks, 10),
    "N@10": lambda ranks: gains(ranks, 10),
    "R@20": lambda ranks: hits(ranks, 20),
}


def floors(lab: Lab) -> Rows:
    """Measure the floors."""
    return lab.rows([lab.floors()], "warm")


def views(lab: Lab) -> Rows:
    """Measure every view at every dim."""
    return lab.rows(lab.views(), "warm")


def cold(lab: Lab) -> Rows:
    """Measure what is left for items out of everything learnt, and for the others beside them."""
    slices = ("cold", "within cold", "warm beside cold", "warm, all learnt")
    runs: dict[str, list[list[Ranked]]] = {slice: [] for slice in slices}
    shares: list[list[float]] = []
    hidden = {seed: held_out(len(lab.shop.content), seed=seed) for seed in lab.seeds}
    less = {
        seed: replace(lab.shop, split=without(lab.shop.split, held))
        for seed, held in hidden.items()
    }
    lab.fit((less[seed], seed) for seed in lab.seeds)
    for seed, held in hidden.items():
        found = lab.fitted(less[seed], seed)
        cases = cold_trials(lab.shop.split, held)
        same = lab.cases.only(np.flatnonzero(~held[lab.cases.targets]))
        plain = lab.content_floors(cases.cold)
        runs["cold"].append(lab.ranked(found, cases.cold) + plain)
        runs["within cold"].append(lab.ranked(found, cases.cold, among=held))
        runs["warm beside cold"].append(lab.ranked(found, cases.warm))
        runs["warm, all learnt"].append(lab.ranked(lab.fitted(lab.shop, seed), same))
        shares.append(shares_in_top(lab, found, lab.cases.without(held), held))
    rows = [row for slice, each in runs.items() for row in lab.rows(each, slice)]
    unmasked = [row for row in rows if not row["masked"] and row["slice"] == "cold"]
    for row, share in zip(unmasked, np.mean(shares, axis=0), strict=False):
        row["share of top 10"] = float(share)
    return rows


def shares_in_top(
    lab: Lab, fitted: tuple[ItemSpace, Views], cases: Trial, held: Bits
) -> list[float]:
    """Return the share of held items in the top 10 of every view at every dim, in that order."""
    found, cases = fitted[1], cases.faded(fitted[0].recency)

    def make() -> dict[str, np.ndarray]:
        shares = [
            share_in_top(by_cosine(*roles, dim=dim), cases, held)
            for roles in roles_of(found).values()
            for dim in lab.shop.dims
        ]
        return {"shares": np.array(shares)}

    key = (sources("cold", "consumer"), found, cases, held, lab.shop.dims)
    return lab.stages.keep("shares", key, make)["shares"].tolist()


def order(lab: Lab) -> Rows:
    """Measure the users whom an order of ids cannot help."""
    if lab.shop.order is None:
        return []
    users = descending_last_pair(lab.shop.split, lab.shop.order)
    share = ascending_share(lab.shop.sequences, lab.shop.order)
    print(
        f"\n{share:.1%} of neighbours in a sequence ascend by id (by chance 50 %); the last pair "
        f"of {np.count_nonzero(users):,} of {len(users):,} users descends.\n"
    )
    slice = "last pair descends"
    rows = lab.rows([of_users(lab.floors(), users)], slice)
    return rows + lab.rows([of_users(found, users) for found in lab.views()], slice)


def again(lab: Lab) -> Rows:
    """Measure the users who take what they have had, and those who take something new."""
    old = had(lab.cases)
    if not old.any():
        return []
    print(f"\n{old.mean():.1%} of {len(old):,} users take what they have had.\n")
    rows: Rows = []
    for what, users in (("taken again", old), ("taken anew", ~old)):
        rows += lab.rows([of_users(lab.floors(), users)], what)
        rows += lab.rows([of_users(found, users) for found in lab.views()], what)
    return rows


def had(cases: Trial) -> Bits:
    """Mark the users who have had their target before."""
    return np.asarray(cases.seen[np.arange(len(cases)), cases.targets] > 0).ravel()


def independent(lab: Lab) -> Rows:
    """Measure what training for each dim alone gives, of the first seed."""
    found, ours = alone(lab), lab.views()
    rows = lab.rows([found], "trained for this dim alone")
    for each in found:
        rows += compared(lab, chosen(ours, each.vectors, each.dim), [each], "prefix less its own")
    return rows


def consumer_b(lab: Lab) -> Rows:
    """Measure fused in consumer B, vectors of seed s read with seed s, and what it learns alone.

    Dropout is what validation likes better with the first seed: of fused at the middle dim, and of
    what it learns alone.
    """
    split, first, middle = lab.shop.split, lab.seeds[0], lab.shop.middle
    tried = [_learnt_by_b(first, dropout) for dropout in DROPOUTS]  # the long ones first
    tried += [_read_by_b(lab, first, middle, dropout) for dropout in DROPOUTS]
    values = np.reshape([each.validation for each in readings(lab.stages, tried, split)], (2, -1))
    free, dropout = (DROPOUTS[best] for best in values.argmax(axis=1))
    ids = [_learnt_by_b(seed, free) for seed in lab.seeds]
    runs = [_read_by_b(lab, s, dim, dropout) for s in lab.seeds for dim in lab.shop.dims]
    done = readings(lab.stages, [*ids, *runs], split)
    seconds = sum(each.seconds for each in done) / len(done)
    print(f"\nDropout by validation: {dropout}; of learned ids {free}. {seconds:.0f} s a run.\n")
    found, size = [each.ranked for each in done], len(lab.shop.dims)
    alone, read = found[: len(ids)], found[len(ids) :]
    parts = [read[k : k + size] for k in range(0, len(runs), size)]
    rows = lab.rows(parts, "warm", "B") + lab.rows([[each] for each in alone], "warm", "B")
    for same in zip(*parts, strict=True):
        rows += compared(lab, same, alone, "fused less learned ids")
    return rows


def _read_by_b(lab: Lab, seed: int, dim: int, dropout: float) -> Reading:
    context, target = roles_of(lab.fitted(lab.shop, seed)[1])["fused"]
    return Reading("fused", dim, (prefix(context, dim), prefix(target, dim)), seed, dropout)


def _learnt_by_b(seed: int, dropout: float) -> Reading:
    return Reading("learned_ids", None, None, seed, dropout)


def compare(lab: Lab) -> Rows:
    """Compare fused with every floor of its dim, user by user."""
    rows: Rows = []
    for dim in lab.shop.dims:
        ours = chosen(lab.views(), "fused", dim)
        for floor in lab.floors():
            if floor.dim in (None, dim) or floor.vectors.endswith("_raw"):
                rows += compared(lab, ours, [floor], "fused less floor")
    return rows


def chosen(runs: Sequence[Sequence[Ranked]], vectors: str, dim: int | None) -> list[Ranked]:
    """Pick one row of every run."""
    return [each for run in runs for each in run if each[:2] == (vectors, dim)]


def compared(lab: Lab, ours: Sequence[Ranked], rivals: Sequence[Ranked], slice: str) -> Rows:
    """Compare with a rival, user by user, what the seeds of both have in the mean."""
    rows: Rows = []
    for masked, (figure, value) in product((False, True), VALUES.items()):
        kind = "masked" if masked else "unmasked"
        means = (
            np.mean([value(getattr(each.ranks, kind)) for each in seeds], axis=0)
            for seeds in (ours, rivals)
        )
        found = paired_bootstrap(*means, seed=lab.seeds[0])
        rows.append(
            {"catalog": lab.shop.name, "vectors": ours[0].vectors, "dim": ours[0].dim}
            | {"rival": rivals[0].vectors, "masked": masked, "slice": slice, "figure": figure}
            | asdict(found)
        )
    return rows


def one_moment(lab: Lab) -> Rows:
    """Measure floors and views on a split at one moment, where the log has times."""
    rows: Rows = []
    for shop in moment_shops(lab):
        moved = replace(lab, shop=shop)
        rows += moved.rows([moved.floors()], "warm") + moved.rows(moved.views(), "warm")
        rows = [row | {"split": "one moment", "users": len(moved.cases)} for row in rows]
    return rows


def moment_shops(lab: Lab) -> list[Shop]:
    """Return the shop split at one moment, where the log has times."""
    shop = lab.shop
    if not has_times(shop.sequences):
        return []
    return [replace(shop, split=at_one_moment(shop.sequences))]


PARTS: dict[str, Callable[[Lab], Rows]] = {
    part.__name__: part
    for part in (
        floors,
        views,
        compare,
        cold,
        again,
        order,
        one_moment,
        night_after_night,
        modalities,
        posters,
        independent,
        reach,
        terms,
        consumer_b,
    )
}


def whole(lab: Lab) -> list[Shop]:
    """Return the shop itself."""
    return [lab.shop]


FIRST, EVERY = slice(1), slice(None)  # seeds
# Shops that parts want vectors of, and with which seeds.
SHOPS: dict[str, Sequence[tuple[Callable[[Lab], Iterable[Shop]], slice]]] = {
    "floors": [(whole, FIRST)],
    "views": [(whole, EVERY)],
    "compare": [(whole, EVERY)],
    "cold": [(whole, EVERY)],
    "again": [(whole, EVERY)],
    "order": [(whole, EVERY)],
    "one_moment": [(moment_shops, EVERY)],
    "night_after_night": [(night_shops, EVERY)],
    "modalities": [(lambda lab: lacking_shops(lab).values(), FIRST)],
    "posters": [(whole, FIRST), (lambda lab: shops_of_one_modality(lab).values(), FIRST)],
    "independent": [(whole, EVERY)],
    "reach": [(whole, FIRST)],
    "terms": [(whole, FIRST)],
    "consumer_b": [(whole, EVERY)],
}


def fits(lab: Lab, parts: Sequence[str]) -> Iterator[Ask]:
    """Yield the fits that parts ask for and that wait for no other."""
    for shops, seeds in chain.from_iterable(SHOPS[part] for part in parts):
        yield from ((shop, seed) for shop in shops(lab) for seed in lab.seeds[seeds])


def stored(path: Path) -> Rows:
    """Return the rows that earlier runs left."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def save(path: Path, part: str, rows: Rows) -> None:
    """Put the rows of a part in the place of those it had."""
    others = [row for row in stored(path) if row["part"] != part]
    lines = [json.dumps(row) for row in [*others, *({**row, "part": part} for row in rows)]]
    draft = path.with_suffix(".draft")
    draft.write_text("\n".join(lines) + "\n")
    draft.rename(path)


def show(part: str, rows: Rows) -> None:
    """Print a part's rows, a table per slice."""
    print(f"\n## {part}", flush=True)
    for slice in dict.fromkeys(row["slice"] for row in rows):
        print(f"\n{slice}\n")
        chosen = [row for row in rows if row["slice"] == slice]
        names = dict.fromkeys(name for row in chosen for name in row)
        hidden = ("catalog", "split", "slice")
        print(
            markdown([{n: row.get(n) for n in names if n not in hidden} for row in chosen]),
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("catalogue", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--processes", type=int, default=PROCESSES, help="that compute side by side"
    )
    parser.add_argument("--folder", type=Path, help="default: data/quality/<name>")
    asked = parser.parse_args(arguments)
    if not asked.catalogue.is_dir():
        parser.error(f"{asked.catalogue} is no folder: name one with a catalogue's files")
    folder = asked.folder or Path("data/quality") / asked.catalogue.resolve().name
    print_machine("numpy", "scipy", "torch")
    with threadpool_limits(1, user_api="blas"):
        shop = load_shop(asked.catalogue, folder)
        lab = Lab(shop, Stages(folder / "stages", asked.processes), tuple(range(asked.seeds)))
        lab.fit(fits(lab, asked.parts))
        for part in asked.parts:
            rows = PARTS[part](lab)
            show(part, rows)
            save(folder / "quality.jsonl", part, rows)
    print("\n## limits\n")
    report, rows = Report(limited=True), stored(folder / "quality.jsonl")
    if shop.name == "amazon_beauty":
        report_beauty(report, rows)
    report_gains(report, rows, shop.middle)
    report_nights(report, rows)
    return report.status()


if __name__ == "__main__":
    sys.exit(main())
