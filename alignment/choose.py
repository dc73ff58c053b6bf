"""What is chosen on validation: whitening, how behaviour is read, and the warm/cold dial.

Every choice is made by a judge that sees validation targets only: the best of a short list, the
first without validation users, and for the dial how far it can go. Without them it stands.
"""

from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from alignment.collaborative import (
    Collaborative,
    Matrix,
    Recipe,
    Triples,
    balanced,
    covisits,
    from_triples,
    singular,
)
from alignment.consumer import Trial, by_cosine, figures, rank
from alignment.fuse import Dial, Residuals, fused
from alignment.interactions import Sequences
from alignment.whiten import (
    MODALITIES,
    Content,
    ContentBlock,
    Encoded,
    Shares,
    content_block,
    whitening,
)
from matryoshka.prefix import Vectors

WHITENING = (0.5, 0.0, 0.25, 1.0)
IMAGE_WEIGHTS = (0.2, 0.05, 0.1, 0.4, 0.0)
MULTIMODAL_WEIGHTS = (0.5, 0.2, 0.8, 1.0, 0.0)
BALANCES = (0.5, 0.4, 0.25)
SINGULAR_POWERS = (0.5, 0.25, 0.75)
WINDOWS = ((20, 0.5), (5, 1.0), (20, 1.0), (50, 0.25))
BACKWARD = (0.5, 0.0, 1.0)
NOVELTY = tuple(1 + k / 40 for k in range(13))
MOST = 0.05  # of their recall that known items may lose to new ones
RECENCIES = (0.6, 0.8, 0.9, 0.95)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Judge:
    """Mean over `dims` of consumer A's R@20 with seen items masked; `look` hears of every use."""

    cases: Trial
    dims: Sequence[int]
    look: Callable[[str], None]

    def __call__(self, context: Vectors, target: Vectors) -> float:
        """Judge the vectors of all items."""
        recalls = [
            figures(rank(by_cosine(context, target, dim=dim), self.cases).masked)["R@20"]
            for dim in self.dims
        ]
        return float(np.mean(recalls))

    def among(self, items: NDArray[np.bool_]) -> "Judge":
        """Judge by the users only whose target is one of some items."""
        return replace(self, cases=self.cases.only(np.flatnonzero(items[self.cases.targets])))

    def faded(self, recency: float) -> "Judge":
        """Judge by histories that fade by another recency."""
        return replace(self, cases=self.cases.faded(recency))

    def best(self, candidates: Sequence[T], value: Callable[[T], float], what: str) -> T:
        """Pick the candidate of the greatest value, the earliest of equals."""
        if len(candidates) == 1 or not len(self.cases):
            return candidates[0]
        values: list[float] = []
        for candidate in candidates:
            self.look(what)
            values.append(value(candidate))
        return candidates[int(np.argmax(values))]


def choose_block(content: Content, judge: Judge, *, width: int) -> ContentBlock:
    """Pick the whitening power of each modality alone, then the weights between them."""
    found = {name: whitening(part.vectors[part.has]) for name, part in _named(content)}
    powers: dict[str, float] = dict.fromkeys(MODALITIES, WHITENING[0])
    there = [name for name, part in _named(content) if part.has.any()]
    what = "choosing the whitening"

    def build(shares: Shares, powers: Mapping[str, float]) -> ContentBlock:
        parts = {name: replace(each, power=powers[name]) for name, each in found.items()}
        return content_block(content, parts, shares=shares, width=width)

    def value(shares: Shares, powers: Mapping[str, float]) -> float:
        rows = build(shares, powers)(content)
        return judge(rows, rows)

    def best_power(name: str) -> float:
        alone = Shares(**{each: float(each == name) for each in MODALITIES})
        return judge.best(WHITENING, lambda power: value(alone, {**powers, name: power}), what)

    powers |= {name: best_power(name) for name in there}
    weights = IMAGE_WEIGHTS if {"text", "image"} <= set(there) else IMAGE_WEIGHTS[:1]
    candidates = [_shares(0.0, weight) for weight in weights]
    best = judge.best(candidates, lambda each: value(each, powers), what)
    if "multimodal" in there:
        weights = MULTIMODAL_WEIGHTS if len(there) > 1 else (1.0,)
        candidates = [_shares(weight, best.image) for weight in weights]
        best = judge.best(candidates, lambda each: value(each, powers), what)
    return build(best, powers)


def _named(content: Content) -> list[tuple[str, Encoded]]:
    return list(zip(MODALITIES, content.parts, strict=True))


def _shares(multimodal: float, image: float) -> Shares:
    """Return the shares for a weight of the multimodal part, and of the image in the rest."""
    rest = 1 - multimodal
    return Shares(text=rest * (1 - image), image=rest * image, multimodal=multimodal)


def choose_recipe(seq: Sequences, judge: Judge, *, dim: int, seed: int) -> Recipe:
    """Pick how fast histories fade, then the balance of co-visits, their window and direction."""
    counted: dict[tuple[int, float], Matrix] = {}
    decomposed: dict[Recipe, Triples] = {}

    def value(recipe: Recipe) -> float:
        window, key = (recipe.window, recipe.decay), replace(recipe, power=1.0, recency=1.0)
        if window not in counted:
            counted[window] = covisits(seq, window=recipe.window, decay=recipe.decay)
        if key not in decomposed:
            matrix = balanced(counted[window], recipe)
            decomposed[key] = singular(matrix, dim, seed=seed, rounds=2)
        found = from_triples(decomposed[key], seq.support, dim=dim, power=recipe.power)
        return judge.faded(recipe.recency)(found.context, found.target)

    recipe, what = Recipe(), "choosing the co-visit recipe"
    recipe = judge.best([replace(recipe, recency=recency) for recency in RECENCIES], value, what)
    options = [replace(recipe, balance=b, power=p) for b, p in product(BALANCES, SINGULAR_POWERS)]
    recipe = judge.best(options, value, what)
    recipe = judge.best([replace(recipe, window=w, decay=d) for w, d in WINDOWS], value, what)
    return judge.best([replace(recipe, backward=backward) for backward in BACKWARD], value, what)


def choose_recency(recipe: Recipe, known: Collaborative, judge: Judge) -> Recipe:
    """Pick how fast the histories fade that are read with this evidence."""
    return judge.best(
        [replace(recipe, recency=recency) for recency in RECENCIES],
        lambda each: judge.faded(each.recency)(known.context, known.target),
        "choosing how fast histories fade",
    )


def near(recipe: Recipe) -> list[Recipe]:
    """Return the recipes next to this one in RECENCIES, and itself where it is one of them."""
    place = bisect(RECENCIES, recipe.recency)
    return [replace(recipe, recency=each) for each in RECENCIES[max(0, place - 2) : place + 1]]


def hiding(known: Collaborative, cold: NDArray[np.bool_]) -> Collaborative:
    """Return the evidence without that about some items, bool [n]."""
    return replace(known, support=np.where(cold, 0, known.support).astype(np.int32))


def choose_novelty(
    dial: Dial,
    context: Vectors,
    target: Vectors,
    residuals: Residuals,
    support: NDArray[np.int32],
    judge: Judge,
) -> Dial:
    """Pick how much further a new target reaches, where some items have no support.

    context, target: float32 [n, d], ordered rows (fuse.py); support: int32 [n], 0 for new items.
    The furthest before recall of the others falls by one standard error (the rule of Breiman et
    al., 1984), or by MOST of itself: the further new items reach, the sooner they are found, and
    the later are all others.
    """
    new = support == 0
    known = replace(judge, cases=judge.cases.without(new)).among(~new)
    if not len(known.cases) or not new.any():
        return dial
    chosen, top = dial, 0.0
    for each in (replace(dial, novelty=novelty) for novelty in NOVELTY):
        judge.look("choosing how far new items reach")
        recall = known(*fused(context, target, support, each, residuals))
        top = max(top, recall)
        error = float(np.sqrt(top * (1 - top) / len(known.cases)))
        if recall <= top - min(error, MOST * top):
            break
        chosen = each
    return chosen
