"""Fits an item space to a catalogue and a log, and chooses on validation what is open in it.

What a space is, and what it makes of items, is space.py's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from alignment import choose, residuals
from alignment.aligned import fit_head
from alignment.collaborative import Collaborative, Recipe, factorise
from alignment.consumer import trial
from alignment.fuse import Dial, Residuals, compacted, fused, ordered
from alignment.interactions import Sequences, Split, playing_cold
from alignment.map import fit_map
from alignment.space import Anchors, ItemSpace
from alignment.whiten import Content, ContentBlock
from matryoshka.head import Head, identity
from matryoshka.prefix import Vectors

Progress = Callable[[int, int, str], None]
VALIDATION_USERS = 3000
ANCHORS = 4096


class Looks:
    """Counts looks at candidates, as progress towards about as many as there will be."""

    def __init__(self, progress: Progress | None, expected: int) -> None:
        self.progress, self.expected, self.done = progress, expected, 0

    def __call__(self, what: str) -> None:
        """Count one more."""
        self.done += 1
        if self.progress:
            self.progress(min(self.done, self.expected - 1), self.expected, what)

    def finish(self, what: str) -> None:
        """Count all, however many there were."""
        if self.progress:
            self.progress(self.expected, self.expected, what)


def choose_recipe(
    split: Split,
    *,
    dims: Sequence[int],
    seed: int,
    method: str = "covisits",
    progress: Progress | None = None,
) -> Recipe:
    """Choose on validation how behaviour is read and factorised, before anything is fitted."""
    looks = Looks(progress, expected=19)
    judge = _judge(split, dims, looks, seed=seed)
    recipe = _recipe(split, judge, method=method, dim=max(dims), seed=seed)
    looks.finish("chose the co-visit recipe")
    return recipe


def _recipe(split: Split, judge: choose.Judge, *, method: str, dim: int, seed: int) -> Recipe:
    if method == "covisits":
        return choose.choose_recipe(split.train, judge, dim=min(judge.dims), seed=seed)
    recipe = Recipe(method=method)
    known = factorise(split.train, dim=dim, seed=seed, recipe=recipe)
    return choose.choose_recency(recipe, known, judge)


def _judge(split: Split, dims: Sequence[int], looks: Looks, *, seed: int) -> choose.Judge:
    """Judge by one dimension in the middle of the ladder."""
    cases = trial(split, on="validation", max_users=VALIDATION_USERS, seed=seed)
    ladder = sorted(set(dims))
    return choose.Judge(cases, ladder[len(ladder) // 2 : len(ladder) // 2 + 1], looks)


class Fitted(NamedTuple):
    """A space, and the evidence about the training period that it was fitted to."""

    space: ItemSpace
    known: Collaborative
    residuals: Residuals


def fit(
    content: Content,
    split: Split,
    *,
    dims: Sequence[int],
    seed: int,
    recipe: Recipe | None = None,
    like: ItemSpace | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Fit a space to a catalogue and the training part of its log.

    Everything open is chosen on the validation targets; test targets are not looked at. `recipe`
    is what `choose_recipe` gave for this split, when it was asked before. With `like`, the choices
    of that space are taken over and nothing is searched.
    """
    dims = tuple(sorted(set(dims)))
    if not dims or dims[0] < 2:
        raise ValueError(f"dims {list(dims)}: give one or more granularities of 2 or above")
    if len(content) != split.train.n_items:
        raise ValueError(
            f"{len(content)} items of content, {split.train.n_items} in the log: give the same"
        )
    looks = Looks(progress, expected=50)
    judge = _judge(split, dims, looks, seed=seed)
    recipe = like.recipe if like else recipe
    recipe = recipe or _recipe(split, judge, method="covisits", dim=dims[-1], seed=seed)
    judge = judge.faded(recipe.recency)
    block = like.block if like else choose.choose_block(content, judge, width=dims[-1])
    looks("factorising co-visits")
    known = factorise(split.train, dim=dims[-1], seed=seed, recipe=recipe)
    every = replace(judge, dims=dims)
    rows = block(content)
    space = _begun(block, rows, known, recipe, every, seed=seed, like=like)
    space = replace(space, head=_head(space, rows, split.train, every))
    fitted = _learnt(space, rows, known, split.train, every, like=like)
    looks.finish("fitted the item space")
    return fitted


def relearn(space: ItemSpace, content: Content, known: Collaborative, split: Split) -> Fitted:
    """Train what the training part of a grown log adds in a space that is kept.

    How fast histories fade and how long is trained are chosen anew, on validation; the space is
    the same otherwise, and so are its ids. known: the evidence of that part, in its frame.
    """
    judge = _judge(split, space.dims, Looks(None, expected=1), seed=space.seed)
    space = replace(space, recipe=choose.choose_recency(space.recipe, known, judge))
    judge = replace(judge, dims=space.dims).faded(space.recency)
    ready = ordered(space.block(content), known, space.map, space.dial, space.basis)
    found = _improved(space, ready, known, split.train, judge)
    return Fitted(replace(space, steps=found.steps), known, found.residuals)


def _begun(
    block: ContentBlock,
    rows: Vectors,
    known: Collaborative,
    recipe: Recipe,
    judge: choose.Judge,
    *,
    seed: int,
    like: ItemSpace | None,
) -> ItemSpace:
    """Fuse content and behaviour, as it is before anything is trained on the log."""
    dims = tuple(judge.dims)
    width = dims[-1]
    dial = like.dial if like else Dial() if known.support.any() else Dial(share=1.0)
    mapping = fit_map(rows, known)
    basis = compacted(rows, known, mapping, dial, width=width)
    return ItemSpace(
        dims=dims,
        seed=seed,
        block=block,
        head=identity(width),
        recipe=recipe,
        dial=dial,
        map=mapping,
        basis=basis,
        steps=0,
        anchors=_anchors(known),
    )


def _learnt(
    space: ItemSpace,
    rows: Vectors,
    known: Collaborative,
    seq: Sequences,
    judge: choose.Judge,
    *,
    like: ItemSpace | None,
) -> Fitted:
    """Train residuals while they improve, and choose how far new items reach beside them."""
    ready = ordered(rows, known, space.map, space.dial, space.basis)
    if like:
        found = space.train(*ready, seq, steps=like.steps)
        return Fitted(replace(space, steps=found.steps), known, found.residuals)
    found = _improved(space, ready, known, seq, judge)
    space = replace(space, steps=found.steps)
    if known.support.any():
        space = replace(space, dial=_novel(space, rows, known, seq, judge))
    return Fitted(space, known, found.residuals)


def _improved(
    space: ItemSpace,
    ready: tuple[Vectors, Vectors],
    known: Collaborative,
    seq: Sequences,
    judge: choose.Judge,
) -> residuals.Trained:
    """Train residuals for as long as the judge likes them better, or to the end without one.

    New items reach as far as known ones meanwhile, whatever is chosen for them afterwards.
    """
    level = replace(space.dial, novelty=1.0)

    def quality(found: Residuals) -> float:
        judge.look("training on the log")
        return judge(*fused(*ready, known.support, level, found))

    return space.train(*ready, seq, quality=quality if len(judge.cases) else None)


def _novel(
    space: ItemSpace, rows: Vectors, known: Collaborative, seq: Sequences, judge: choose.Judge
) -> Dial:
    """Choose the reach of new items while a tenth of them plays cold in everything trained."""
    cold = playing_cold(len(rows), seed=space.seed)
    hidden = choose.hiding(known, cold)
    ready = ordered(rows, hidden, fit_map(rows, hidden), space.dial, space.basis)
    less = seq.keep(~cold[seq.items])
    found = space.train(*ready, less, steps=space.steps)
    return choose.choose_novelty(space.dial, *ready, found.residuals, hidden.support, judge)


def _head(space: ItemSpace, rows: Vectors, seq: Sequences, judge: choose.Judge) -> Head:
    def quality(head: Head) -> float:
        judge.look("training the nested head")
        aligned = head(rows)
        return judge(aligned, aligned)

    return fit_head(
        rows,
        seq,
        space.dims,
        recency=space.recency,
        seed=space.seed,
        quality=quality if len(judge.cases) else None,
    )


def _anchors(known: Collaborative) -> Anchors:
    best = np.argsort(-known.support, kind="stable")[:ANCHORS]
    rows = np.sort(best[known.support[best] > 0]).astype(np.int32)
    return Anchors(rows, known.context[rows], known.target[rows])
