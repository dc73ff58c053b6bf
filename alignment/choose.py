"""What is chosen on validation: whitening, co-visit recipe and the warm/cold dial.

Every choice is the best of a short list for a judge that sees validation targets only. Without
validation users the first of each list stands.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

import numpy as np

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
from alignment.fuse import Dial, compacted, fused
from alignment.interactions import Sequences
from alignment.map import fit_map
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
SHARES = (0.33, 0.1, 0.2, 0.5, 0.67)
SHARPNESS = (0, 50)
EVIDENCE = (10.0, 3.0, 30.0)
POPULARITY = (0.1, 0.0, 0.05, 0.2)
EVENNESS = (0.5, 0.0)
PLAYING_COLD = 0.1
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
    shares = [_shares(0.0, weight) for weight in IMAGE_WEIGHTS]
    if not {"text", "image"} <= set(there):
        shares = shares[:1]
    best = judge.best(shares, lambda each: value(each, powers), what)
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
    """Pick the balance of co-visits for a default window, then the window, then the direction."""
    counted: dict[tuple[int, float], Matrix] = {}
    decomposed: dict[Recipe, Triples] = {}

    def value(recipe: Recipe) -> float:
        window, key = (recipe.window, recipe.decay), replace(recipe, power=1.0)
        if window not in counted:
            counted[window] = covisits(seq, window=recipe.window, decay=recipe.decay)
        if key not in decomposed:
            matrix = balanced(counted[window], recipe)
            decomposed[key] = singular(matrix, dim, seed=seed, rounds=2)
        found = from_triples(decomposed[key], seq.support, dim=dim, power=recipe.power)
        return judge(found.context, found.target)

    recipe, what = Recipe(), "choosing the co-visit recipe"
    options = [replace(recipe, balance=b, power=p) for b, p in product(BALANCES, SINGULAR_POWERS)]
    recipe = judge.best(options, value, what)
    recipe = judge.best([replace(recipe, window=w, decay=d) for w, d in WINDOWS], value, what)
    return judge.best([replace(recipe, backward=backward) for backward in BACKWARD], value, what)


def choose_dial(
    block: Vectors, known: Collaborative, judge: Judge, *, dims: tuple[int, ...], seed: int
) -> Dial:
    """Pick share, sharpness, n0 and reach in turn: what costs warm items nothing, kindest to cold.

    A tenth of the items plays cold. "Nothing" is half a standard error of the best warm recall.
    """
    dial = Dial(SHARES[0], SHARPNESS[0], EVIDENCE[0], POPULARITY[0], EVENNESS[0])
    if not known.support.any():
        return replace(dial, share=1.0)
    if not len(judge.cases):
        return dial
    played = np.random.default_rng(seed).random(len(block)) < PLAYING_COLD
    hidden = replace(known, support=np.where(played, 0, known.support).astype(np.int32))
    cold = replace(judge, cases=judge.cases.only(np.flatnonzero(played[judge.cases.targets])))
    maps = {
        steps: [fit_map(block, evidence, steps=steps, seed=seed) for evidence in (known, hidden)]
        for steps in SHARPNESS
    }

    def values(dial: Dial) -> tuple[float, float]:
        judge.look("choosing the warm/cold dial")
        seeing, blind = maps[dial.sharpness]
        order = compacted(block, known, seeing, dial, dims)
        warm = judge(*fused(block, known, seeing, dial, *order))
        return warm, cold(*fused(block, hidden, blind, dial, *order))

    def kindest(dials: list[Dial]) -> Dial:
        return _kindest(dials, [values(dial) for dial in dials], len(judge.cases))

    dial = kindest([replace(dial, share=share) for share in SHARES])
    dial = kindest([replace(dial, sharpness=steps) for steps in SHARPNESS])
    dial = kindest([replace(dial, n0=n0) for n0 in EVIDENCE])
    options = product(POPULARITY, EVENNESS)
    return kindest([replace(dial, popularity=p, evenness=e) for p, e in options])


def _kindest(dials: list[Dial], found: list[tuple[float, float]], users: int) -> Dial:
    top = max(warm for warm, _ in found)
    least = top - 0.5 * float(np.sqrt(top * (1 - top) / users))
    allowed = [k for k, (warm, _) in enumerate(found) if warm >= least]
    return dials[max(allowed, key=lambda k: found[k][1])]
