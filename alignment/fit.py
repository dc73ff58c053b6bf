"""Fits an item space to a catalogue and a log, and chooses on validation what is open in it.

What a space is, and what it makes of items, is space.py's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment import choose
from alignment.aligned import fit_head
from alignment.collaborative import Collaborative, Recipe, factorise
from alignment.consumer import trial
from alignment.fuse import Dial, Residuals, compacted, ordered
from alignment.improve import Fitted, improved
from alignment.interactions import Sequences, Split, playing_new
from alignment.map import fit_map
from alignment.space import Anchors, ItemSpace, Views
from alignment.whiten import Bits, Content, ContentBlock
from matryoshka.head import Head, identity
from matryoshka.prefix import Vectors
from matryoshka.train import at_once

Progress = Callable[[int, int, str], None]  # called by one thread at a time, not always the same
VALIDATION_USERS = 3000
ANCHORS = 4096


class Looks:
    """Counts looks at candidates, as progress towards about as many as there will be."""

    def __init__(self, progress: Progress | None, expected: int) -> None:
        self.progress, self.expected, self.done = progress, expected, 0
        self.one_by_one = Lock()

    def __call__(self, what: str) -> None:
        """Count one more, from whichever thread."""
        with self.one_by_one:
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
    judge = validation_judge(split, dims, looks, seed=seed)
    recipe = _recipe(split, judge, method=method, dim=max(dims), seed=seed)
    looks.finish("chose the co-visit recipe")
    return recipe


def _recipe(split: Split, judge: choose.Judge, *, method: str, dim: int, seed: int) -> Recipe:
    if method == "covisits":
        return choose.choose_recipe(split.train, judge, dim=min(judge.dims), seed=seed)
    recipe = Recipe(method=method)
    known = factorise(split.train, dim=dim, seed=seed, recipe=recipe)
    return choose.choose_recency(recipe, known, judge)


def validation_judge(split: Split, dims: Sequence[int], looks: Looks, *, seed: int) -> choose.Judge:
    """Judge by one dimension in the middle of the ladder."""
    cases = trial(split, on="validation", max_users=VALIDATION_USERS, seed=seed)
    ladder = sorted(set(dims))
    return choose.Judge(cases, ladder[len(ladder) // 2 : len(ladder) // 2 + 1], looks)


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
    is what `choose_recipe` gave for this split, when it was asked before; the search for how fast
    histories fade begins at its recency. With `like`, the choices of that space are taken over and
    nothing is searched. ValueError without a granularity of 2 or above, or where content and log
    are of different numbers of items.
    """
    dims = tuple(sorted(set(dims)))
    _check(content, split, dims)
    looks = Looks(progress, expected=50)
    judge = validation_judge(split, dims, looks, seed=seed)
    recipe = like.recipe if like else recipe
    recipe = recipe or _recipe(split, judge, method="covisits", dim=dims[-1], seed=seed)
    faded = judge.faded(recipe.recency)
    block = like.block if like else choose.choose_block(content, faded, width=dims[-1])
    looks("factorising co-visits")
    known = factorise(split.train, dim=dims[-1], seed=seed, recipe=recipe)
    rows = block(content)
    space = _begun(block, rows, known, recipe, dims, seed=seed, like=like)
    learn = _taken_over if like else _searched
    fitted = learn(space, rows, known, split.train, replace(judge, dims=dims))
    looks.finish("fitted the item space")
    return fitted


def _check(content: Content, split: Split, dims: tuple[int, ...]) -> None:
    if not dims or dims[0] < 2:
        raise ValueError(f"dims {list(dims)}: give one or more granularities of 2 or above")
    if len(content) != split.train.n_items:
        raise ValueError(
            f"{len(content)} items of content, {split.train.n_items} in the log: give the same"
        )


def published(
    content: Content,
    split: Split,
    *,
    dims: Sequence[int],
    seed: int,
    like: ItemSpace | None = None,
) -> tuple[ItemSpace, Views]:
    """Fit a space to a split and make the vectors that its training part allows.

    like: a space whose choices are taken over.
    """
    space, known, residuals = fit(content, split, dims=dims, seed=seed, like=like)
    return space, space.views(content, known, residuals)


def relearn(space: ItemSpace, content: Content, known: Collaborative, split: Split) -> Fitted:
    """Train what the training part of a grown log adds in a space that is kept.

    How long is trained is chosen anew, on validation, and how fast histories fade, and it is asked
    anew whether users take things again; the space is the same otherwise, and so are its ids.
    known: the evidence of that part, in its frame.
    """
    judge = validation_judge(split, space.dims, Looks(None, expected=1), seed=space.seed)
    ready = ordered(space.block(content), known, space.map, space.dial, space.basis)
    return improved(space, ready, known, split.train, replace(judge, dims=space.dims))


def _begun(
    block: ContentBlock,
    rows: Vectors,
    known: Collaborative,
    recipe: Recipe,
    dims: tuple[int, ...],
    *,
    seed: int,
    like: ItemSpace | None,
) -> ItemSpace:
    """Fuse content and behaviour, as it is before anything is trained on the log."""
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
        steps=like.steps if like else 0,
        spare=like.spare if like else False,
        anchors=_anchors(known),
    )


def _taken_over(
    space: ItemSpace, rows: Vectors, known: Collaborative, seq: Sequences, judge: choose.Judge
) -> Fitted:
    """Train residuals and head as the space says, side by side."""
    ready = ordered(rows, known, space.map, space.dial, space.basis)
    residuals, head = at_once(
        lambda: space.train(*ready, seq, steps=space.steps),
        lambda: train_head(space, rows, seq, judge.faded(space.recency)),
    )
    return Fitted(replace(space, head=head), known, residuals)


def _searched(
    space: ItemSpace, rows: Vectors, known: Collaborative, seq: Sequences, judge: choose.Judge
) -> Fitted:
    """Train residuals for as long, and read, as is best; then the head, and the dial beside it."""
    ready = ordered(rows, known, space.map, space.dial, space.basis)
    fitted = improved(space, ready, known, seq, judge)
    space, faded = fitted.space, judge.faded(fitted.space.recency)
    head, dial = at_once(
        lambda: train_head(space, rows, seq, faded),
        lambda: _novel(space, rows, known, seq, faded),
    )
    return fitted._replace(space=replace(space, head=head, dial=dial))


def _novel(
    space: ItemSpace, rows: Vectors, known: Collaborative, seq: Sequences, judge: choose.Judge
) -> Dial:
    """Choose the reach of new items while a tenth of all is new to everything trained."""
    if not known.support.any():
        return space.dial
    played = rehearse(space, rows, known, seq, playing_new(known.support, seed=space.seed))
    return choose.choose_novelty(
        space.dial, played.context, played.target, played.residuals, played.support, judge
    )


class Rehearsal(NamedTuple):
    """The ordered rows, residuals and support of all items while some played new."""

    context: Vectors
    target: Vectors
    residuals: Residuals
    support: NDArray[np.int32]

    @property
    def new(self) -> Bits:
        """The items that are new, or played it: bool [n]."""
        return self.support == 0


def rehearse(
    space: ItemSpace, rows: Vectors, known: Collaborative, seq: Sequences, playing: Bits
) -> Rehearsal:
    """Let some items, bool [n], play new: kept from the map, and from all that is trained."""
    hidden = choose.hiding(known, playing)
    ready = ordered(rows, hidden, fit_map(rows, hidden), space.dial, space.basis)
    added = space.train(*ready, seq.keep(~playing[seq.items]), steps=space.steps)
    return Rehearsal(*ready, added, hidden.support)


def train_head(space: ItemSpace, rows: Vectors, seq: Sequences, judge: choose.Judge) -> Head:
    """Train the head of the dims of a space on content rows [n, d]; the judge's best is kept."""

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
        spare=space.spare,
        quality=quality if len(judge.cases) else None,
    )


def outgrown(space: ItemSpace, support: NDArray[np.integer]) -> bool:
    """Say whether more than twice as many items have events now as when a space was fitted.

    Its recipe, frame, map and dial are of too few items then, and a refresh would keep them.
    support: int [n], events in today's training period. Items beyond ANCHORS do not count.
    """
    today = min(ANCHORS, np.count_nonzero(support))
    return bool(today > 2 * len(space.anchors.rows))


def _anchors(known: Collaborative) -> Anchors:
    best = np.argsort(-known.support, kind="stable")[:ANCHORS]
    rows = np.sort(best[known.support[best] > 0]).astype(np.int32)
    return Anchors(rows, known.context[rows], known.target[rows])
