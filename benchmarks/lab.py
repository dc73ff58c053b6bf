"""What benchmarks/quality.py measures with: a catalogue as arrays, and vectors fitted to it once.

It knows stages and how rows of figures look; which figures are asked for, it does not.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alignment.consumer import Floats, Ranks, Trial, error, figures, hits, trial
from alignment.evaluate import ranked
from alignment.fit import published, relearn
from alignment.floors import Ranked, behaviour_floors, content_floors
from alignment.interactions import Ints, Sequences, Split, leave_last_out
from alignment.space import ItemSpace, Views
from alignment.versions import Version
from alignment.whiten import Bits, Content
from assets.inputs import load_ids
from assets.lake import open_lake
from assets.run import materialize
from assets.sequences import load_sequences
from assets.settings import FILE, Settings, load, write_default
from assets.stored import load_content
from benchmarks.order import id_order
from benchmarks.stages import Arrays, Make, Stages, sources

MIDDLE = 128  # the dim of every comparison
RANKING = ("consumer", "evaluate", "prefix")  # what ranks for consumer A
FLOORS = (*RANKING, "choose", "collaborative", "floors", "interactions", "limits", "whiten")
Row = dict[str, Any]
Rows = list[Row]


@dataclass(frozen=True, slots=True)
class Shop:
    """A catalogue as arrays; order: what its items' ids say of their order, where that leaks."""

    name: str
    content: Content
    sequences: Sequences
    split: Split
    dims: tuple[int, ...]
    order: Ints | None

    @property
    def middle(self) -> int:
        """The dim of comparisons: MIDDLE, or the widest."""
        return MIDDLE if MIDDLE in self.dims else max(self.dims)


def load_shop(catalogue: Path, folder: Path) -> Shop:
    """Read a catalogue from its store, which is made first if it has no release yet."""
    settings_file = folder / FILE
    if not settings_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_default(settings_file, catalogue=str(catalogue.resolve()), store="store")
    settings = load(settings_file)
    if not _released(settings):
        outcome = materialize(settings_file)
        if not outcome.succeeded:
            raise RuntimeError("; ".join(outcome.failures))
    with open_lake(settings) as lake:
        ids, content, sequences = load_ids(lake), load_content(lake), load_sequences(lake)
    split = leave_last_out(sequences)
    order = id_order(catalogue, ids)
    return Shop(catalogue.resolve().name, content, sequences, split, settings.dims, order)


def _released(settings: Settings) -> bool:
    with open_lake(settings) as lake:
        return lake.shown() is not None


Ask = tuple[Shop, int]  # fit to what, with which seed


@dataclass(frozen=True, slots=True)
class Lab:
    """What the parts measure with: a shop, its stages, and a seed per repetition."""

    shop: Shop
    stages: Stages
    seeds: tuple[int, ...]

    def fit(self, asked: Iterable[Ask]) -> None:
        """Fit what never was fitted, side by side, for `fitted` to find."""
        self.stages.make("fit", map(_fitting, asked))

    def fitted(self, shop: Shop, seed: int) -> tuple[ItemSpace, Views]:
        """Fit vectors to a shop: the whole one, or one that lacks something."""
        kept = self.stages.keep("fit", *_fitting((shop, seed)))
        learnt = {n.removeprefix("space."): v for n, v in kept.items() if n.startswith("space.")}
        space = ItemSpace.restore(learnt, json.loads(str(kept["description"])))
        return space, Views(**{name: kept[f"view.{name}"] for name in Views.__slots__})

    def refreshed(self, shops: Sequence[Shop], space: ItemSpace) -> list[Version]:
        """Make the fused vectors of grown shops in a space that is kept."""
        wanted = [
            ((sources(), shop.content, shop.split, *named(space)), partial(_refresh, shop, space))
            for shop in shops
        ]
        return [
            Version(kept["context"], kept["target"], float(kept["recency"]))
            for kept in self.stages.keep_each("refresh", wanted)
        ]

    def ranked(
        self, fitted: tuple[ItemSpace, Views], cases: Trial, *, among: Bits | None = None
    ) -> list[Ranked]:
        """Rank for a trial's users by every view at every dim, histories read as the space says."""
        space, views = fitted
        dims, cases = self.shop.dims, cases.faded(space.recency)
        return self.stages.keep_ranks(
            "views",
            (sources(*RANKING), views, cases, dims, among),
            lambda: ranked(views, cases, dims, among=among),
        )

    def floors(self) -> list[Ranked]:
        """Rank the test targets by every floor."""
        shop, seed = self.shop, self.seeds[0]
        found = self.stages.keep_ranks(
            "behaviour_floors",
            (sources(*FLOORS), shop.split, shop.dims, seed),
            lambda: behaviour_floors(shop.split, self.cases, dims=shop.dims, seed=seed),
        )
        return found + self.content_floors(self.cases)

    def content_floors(self, cases: Trial) -> list[Ranked]:
        """Rank for a trial's users by plain content, their histories as the first space says."""
        shop = self.shop
        cases = cases.faded(self.fitted(shop, self.seeds[0])[0].recency)
        return self.stages.keep_ranks(
            "content_floors",
            (sources(*FLOORS), shop.content, cases, shop.dims),
            lambda: content_floors(shop.content, cases, dims=shop.dims),
        )

    @property
    def cases(self) -> Trial:
        """All test targets."""
        return trial(self.shop.split, on="test")

    def views(self) -> list[list[Ranked]]:
        """Rank the test targets by the vectors of every seed."""
        return [self.ranked(self.fitted(self.shop, s), self.cases) for s in self.seeds]

    def rows(self, runs: Sequence[Sequence[Ranked]], slice: str, consumer: str = "A") -> Rows:
        """Return a row per vectors, dim and masking of runs that differ by their seed."""
        return [
            {"catalog": self.shop.name, "vectors": same[0].vectors, "consumer": consumer}
            | {"dim": same[0].dim, "split": "leave-last-out", "masked": masked, "slice": slice}
            | averaged([each.ranks.masked if masked else each.ranks.unmasked for each in same])
            for same in zip(*runs, strict=True)
            for masked in (False, True)
        ]


def _fitting(ask: Ask) -> tuple[object, Make]:
    """Return what a fit is made from, and how."""
    shop, seed = ask
    made_from = (sources(), shop.content, shop.split, shop.dims, seed)
    return made_from, partial(_fit, shop, seed)


def named(space: ItemSpace) -> tuple[str, int, float, bool]:
    """Return what tells a space from every other one, how it reads a log included."""
    return space.basis_id, space.steps, space.recency, space.spare


def _fit(shop: Shop, seed: int) -> Arrays:
    space, views = published(shop.content, shop.split, dims=shop.dims, seed=seed)
    described = np.array(json.dumps(space.description()))
    parts = {f"view.{name}": getattr(views, name) for name in Views.__slots__}
    learnt = {f"space.{name}": value for name, value in space.arrays().items()}
    return {"description": described, **parts, **learnt}


def _refresh(shop: Shop, space: ItemSpace) -> Arrays:
    known = space.factorise(shop.split.train)
    today, _, added = relearn(space, shop.content, known, shop.split)
    found = Version.of(today, today.views(shop.content, known, added))
    return {name: np.asarray(value) for name, value in found._asdict().items()}


def averaged(seeds: Sequence[Floats]) -> Row:
    """Mean figures of one ranking per seed.

    se, "se N@10" and "se R@20": standard errors over users, of one seed's R@10 and the others; sd:
    of R@10 over seeds.
    """
    names = ("R@10", "N@10", "R@20", "se", "se N@10", "se R@20")
    each = [figures(ranks) | {"se R@20": error(hits(ranks, 20))} for ranks in seeds]
    row: Row = {name: float(np.mean([f[name] for f in each])) for name in names}
    row["seeds"] = len(seeds)
    if len(seeds) > 1:
        row["sd"] = float(np.std([f["R@10"] for f in each], ddof=1))
    return row


def of_users(found: Sequence[Ranked], users: Bits) -> list[Ranked]:
    """Keep the ranks of the marked users."""
    return [
        each._replace(ranks=Ranks(each.ranks.unmasked[users], each.ranks.masked[users]))
        for each in found
    ]
