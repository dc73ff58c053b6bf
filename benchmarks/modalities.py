"""What text and pictures are worth each: with one alone, and where half of the items lack one.

Two parts of benchmarks/quality.py. What vectors are made of contents, it does not know.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from alignment.consumer import Floats
from alignment.floors import baskets
from alignment.interactions import Ints, Sequences
from alignment.statistics import paired_bootstrap
from alignment.whiten import MODALITIES, Bits, Content, Encoded
from benchmarks.lab import Lab, Rows, Shop, of_users
from matryoshka.prefix import Vectors, prefix

TAKEN = 15  # events of an item whose company is known
LACKING = 2000  # added to the seed: a draw apart from those of a fit and of cold items


def modalities(lab: Lab) -> Rows:
    """Measure spaces fitted to one modality alone, and to half of one."""
    rows: Rows = []
    seed, cases, gone = lab.seeds[0], lab.cases, half(lab)
    for what, shop in lacking_shops(lab).items():
        found = lab.ranked(lab.fitted(shop, seed), cases)
        rows += lab.rows([found], what)
        if what.startswith("half"):
            rows += lab.rows([of_users(found, gone[cases.targets])], f"{what}: targets without it")
    return rows


def lacking_shops(lab: Lab) -> dict[str, Shop]:
    """Return the shop with one modality only, and with one that half of the items lack."""
    content, gone = lab.shop.content, half(lab)
    return shops_of_one_modality(lab) | {
        f"half without {name}": replace(lab.shop, content=lacking(content, name, gone))
        for name in present(content)
    }


def shops_of_one_modality(lab: Lab) -> dict[str, Shop]:
    """Return the shop with one modality only, for each of several."""
    content, names = lab.shop.content, present(lab.shop.content)
    return {
        f"{name} only": replace(lab.shop, content=alone(content, name))
        for name in names
        if len(names) > 1
    }


def half(lab: Lab) -> Bits:
    """Draw half of the items."""
    return np.random.default_rng(LACKING + lab.seeds[0]).random(len(lab.shop.content)) < 0.5


def present(content: Content) -> list[str]:
    """Name the modalities that some item has."""
    return [n for n, part in zip(MODALITIES, content.parts, strict=True) if part.has.any()]


def posters(lab: Lab) -> Rows:
    """Tell how many of the items taken together are neighbours by content, by what it reads."""
    shop, seed = lab.shop, lab.seeds[0]
    without = shops_of_one_modality(lab)
    if not {"text only", "image only"} <= set(without):
        return []
    items = np.flatnonzero(shop.content.image.has & (shop.sequences.support >= TAKEN))
    wanted = together(shop.sequences, items)
    if not any(map(len, wanted)):
        return []
    found: dict[str, Floats] = {}
    for what in ("text and image", "text only", "image only"):
        rows = lab.fitted(without.get(what, shop), seed)[1].content
        found[what] = recall_together(prefix(rows[items], shop.middle), wanted)
    both = found["text and image"]
    tests = {what: paired_bootstrap(both, recall, seed=seed) for what, recall in found.items()}
    return [
        {"catalog": shop.name, "vectors": "content", "dim": shop.middle, "slice": "taken together"}
        | {"reads": what, "items": len(recall), "R@50": float(recall.mean())}
        | {"both less this": tests[what].difference, "low": tests[what].low}
        | {"high": tests[what].high, "p": tests[what].p}
        for what, recall in found.items()
    ]


def alone(content: Content, modality: str) -> Content:
    """Return the same items as if they had but one modality."""
    rest = {name: Encoded.none(len(content)) for name in MODALITIES if name != modality}
    return replace(content, **rest)


def lacking(content: Content, modality: str, gone: Bits) -> Content:
    """Return the same items, of which the marked ones do not have the modality."""
    vectors, has = getattr(content, modality)
    return replace(content, **{modality: Encoded(vectors, has & ~gone)})


def together(seq: Sequences, items: Ints, *, most: int = 20, least: int = 3) -> list[Ints]:
    """Return for each of `items` the places in `items` of those most often taken by its users.

    By the cosine between the sets of users, `most` at most, of those with `least` users in common.
    All events count: it is what vectors are asked for, and nothing learns from it.
    """
    sets = baskets(seq, most=seq.longest)[:, items]
    common = (sets.T @ sets).toarray()
    sizes = np.sqrt(np.maximum(common.diagonal(), 1))
    near = np.where(common >= least, common / sizes[:, None] / sizes, 0)
    np.fill_diagonal(near, 0)
    best = np.argsort(-near, axis=1, kind="stable")[:, :most]
    return [row[near[item, row] > 0] for item, row in enumerate(best)]


def recall_together(vectors: Vectors, wanted: Sequence[Ints], *, k: int = 50) -> Floats:
    """Share of each row's `wanted` rows that are among its k nearest; only rows that want any."""
    near = vectors @ vectors.T
    np.fill_diagonal(near, -np.inf)
    nearest = np.argsort(-near, axis=1, kind="stable")[:, :k]
    shares = [np.isin(w, n).mean() for w, n in zip(wanted, nearest, strict=True) if len(w)]
    return np.array(shares, dtype=np.float64)
