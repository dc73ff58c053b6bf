"""The item space: everything that turns content and behaviour into comparable vectors.

It is fitted once, kept as named arrays and a JSON-able description, and applied to any rows, also
of items that came later. It knows row order only; ids and storage are somebody else's.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple, get_type_hints

import numpy as np
from numpy.typing import NDArray

from alignment import choose, residuals, rotate
from alignment.collaborative import Collaborative, Recipe, factorise
from alignment.consumer import trial
from alignment.fuse import Dial, Residuals, compacted, fused, ordered
from alignment.interactions import Sequences, Split, pairs
from alignment.map import Map, fit_map
from alignment.whiten import Content, ContentBlock
from matryoshka.compaction import Basis
from matryoshka.head import Head, identity
from matryoshka.prefix import Vectors, unit
from matryoshka.train import fit as fit_head

Progress = Callable[[int, int, str], None]
Array = NDArray[Any]
FORMAT = 4  # raise it when the fields of ItemSpace, or what they mean, change
VALIDATION_USERS = 3000
ANCHORS = 4096
PAIR_WINDOW = 5
MAX_PAIRS = 2_000_000


@dataclass(frozen=True, slots=True)
class Views:
    """Unit rows [n, width] per view and role; row i is item i; none is zero, all are finite."""

    content: Vectors
    aligned: Vectors
    fused_context: Vectors
    fused_target: Vectors
    collaborative_context: Vectors
    collaborative_target: Vectors


@dataclass(frozen=True, slots=True)
class Anchors:
    """Behaviour at fitting time of the best supported items: the frame later evidence turns to."""

    rows: NDArray[np.int32]
    context: Vectors
    target: Vectors


@dataclass(frozen=True, slots=True)
class ItemSpace:
    """A fitted space. `dims` are the published granularities, the largest is the width.

    steps: how long residuals are trained in it (residuals.py).
    """

    dims: tuple[int, ...]
    seed: int
    block: ContentBlock
    head: Head
    recipe: Recipe
    dial: Dial
    map: Map
    basis: Basis
    steps: int
    anchors: Anchors

    @property
    def width(self) -> int:
        """The largest granularity: how wide every view is."""
        return max(self.dims)

    @property
    def recency(self) -> float:
        """What an event of a history weighs less than the next one, for consumer A."""
        return self.recipe.recency

    def views(
        self,
        content: Content,
        collaborative: Collaborative | None,
        residuals: Residuals | None = None,
    ) -> Views:
        """Make the vectors of items from their content and their evidence, turned to this frame.

        Where there is none (support 0), behaviour is predicted from content, in the collaborative
        view too. residuals: what `learn` made of the same evidence; fused vectors are worse without
        them, and still comparable.
        """
        known = collaborative or nothing(len(content), self.width)
        if len(known.support) != len(content):
            raise ValueError(
                f"{len(known.support)} rows of evidence for {len(content)} items: give one each"
            )
        block = self.block(content)
        context, target = self.map(block)
        warm = known.support[:, None] > 0
        ready = ordered(block, known, self.map, self.dial, self.basis)
        rows = (
            block,
            self.head(block),
            *fused(*ready, known.support, self.dial, residuals),
            np.where(warm, known.context, context),
            np.where(warm, known.target, target),
        )
        return Views(*(publishable(part, min(self.dims)) for part in rows))

    def factorise(self, seq: Sequences) -> Collaborative:
        """Factorise a newer log by the recipe of this space and turn it into its frame."""
        return self.align(factorise(seq, dim=self.width, seed=self.seed, recipe=self.recipe))

    def learn(
        self, content: Content, known: Collaborative, seq: Sequences, *, steps: int | None = None
    ) -> Residuals:
        """Train what a log adds to the fused vectors of its items, as long as was found best.

        known: the evidence of the same log, turned to this frame; steps: what `relearn` found, by
        default what was found when the space was fitted.
        """
        ready = ordered(self.block(content), known, self.map, self.dial, self.basis)
        steps = self.steps if steps is None else steps
        return _trained(self, ready, seq, steps=steps).residuals

    def relearn(self, content: Content, known: Collaborative, split: Split) -> residuals.Trained:
        """Train what the training part of a grown log adds, for as long as validation improves."""
        ready = ordered(self.block(content), known, self.map, self.dial, self.basis)
        judge = _judge(split, self.dims, Looks(None, expected=1), seed=self.seed)
        judge = replace(judge, dims=self.dims).faded(self.recency)
        return _improved(self, ready, known, split.train, judge)

    def align(
        self, newer: Collaborative, rows: NDArray[np.integer[Any]] | None = None
    ) -> Collaborative:
        """Rotate newer evidence into this space's collaborative frame.

        rows[i] is where the item that was row i at fitting time is now, -1 if it is gone; leave it
        out while the first rows are the same items.
        """
        anchors = self.anchors
        now = anchors.rows if rows is None else np.asarray(rows)[anchors.rows]
        here = (now >= 0) & (now < len(newer.support))
        return rotate.onto(newer, anchors.context[here], anchors.target[here], now[here])

    def description(self) -> dict[str, Any]:
        """Return everything chosen, JSON-able."""
        scalars: dict[str, Any] = {
            "format": FORMAT,
            "norm": "every published prefix is a unit row",
        }
        for name, value in _leaves(self):
            if not isinstance(value, np.ndarray):
                scalars[name] = list(value) if isinstance(value, tuple) else value
        return scalars

    def arrays(self) -> dict[str, Array]:
        """Return everything learnt, row-major: float32, but for row and column numbers (int32).

        Row-major matters: safetensors writes the memory of an array as it lies, whatever its order.
        """
        return {
            name: np.ascontiguousarray(value)
            for name, value in _leaves(self)
            if isinstance(value, np.ndarray)
        }

    @classmethod
    def restore(cls, arrays: dict[str, Array], description: dict[str, Any]) -> "ItemSpace":
        """Rebuild the space that gave these arrays and this description.

        ValueError if another version of this package gave them.
        """
        if description.get("format") != FORMAT:
            raise ValueError(
                f"the space is of format {description.get('format')}, this version reads {FORMAT}: "
                "materialize again, or read it with the version that made it"
            )
        return _rebuild(cls, {**description, "dims": tuple(description["dims"]), **arrays}, "")

    @property
    def space_id(self) -> str:
        """Digest of everything but the order of energy: other vectors must not be compared."""
        return self._digest(but="basis.")

    @property
    def basis_id(self) -> str:
        """Digest of everything: prefixes may be compared too."""
        return self._digest(but=None)

    def _digest(self, but: str | None) -> str:
        digest = hashlib.sha256(json.dumps(self.description(), sort_keys=True).encode())
        for name, array in sorted(self.arrays().items()):
            if but is None or not name.startswith(but):
                digest.update(f"{name} {array.dtype} {array.shape} ".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _leaves(part: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(part):
        value, path = getattr(part, field.name), name + field.name
        if is_dataclass(value):
            yield from _leaves(value, path + ".")
        else:
            yield path, value


def _rebuild(kind: type, leaves: dict[str, Any], name: str) -> Any:
    hints = get_type_hints(kind)
    parts = (
        _rebuild(hints[field.name], leaves, f"{name}{field.name}.")
        if is_dataclass(hints[field.name])
        else leaves[name + field.name]
        for field in fields(kind)
    )
    return kind(*parts)


def nothing(n: int, dim: int) -> Collaborative:
    """Make the evidence about n items that nobody touched."""
    zeros = np.zeros((n, dim), dtype=np.float32)
    return Collaborative(zeros, zeros, np.zeros(n, dtype=np.int32))


def publishable(rows: Vectors, shortest: int) -> Vectors:
    """Make unit rows of which no prefix from `shortest` on vanishes."""
    rows = unit(rows)
    rows[np.linalg.norm(rows[:, :shortest], axis=1) < 1e-4, 0] += 1e-3
    return unit(rows)


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
    space = _begun(block, block(content), known, recipe, every, seed=seed, like=like)
    space = replace(space, head=_head(block(content), split.train, every, seed=seed))
    fitted = _learnt(space, block(content), known, split.train, every, like=like)
    looks.finish("fitted the item space")
    return fitted


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
        found = _trained(space, ready, seq, steps=like.steps)
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
    """Train residuals for as long as the judge likes them better, or to the end without one."""

    def quality(found: Residuals) -> float:
        judge.look("training on the log")
        return judge(*fused(*ready, known.support, space.dial, found))

    return _trained(space, ready, seq, steps=None, quality=quality if len(judge.cases) else None)


def _novel(
    space: ItemSpace, rows: Vectors, known: Collaborative, seq: Sequences, judge: choose.Judge
) -> Dial:
    """Choose the reach of new items while a tenth of them plays cold in everything trained."""
    cold = choose.playing_cold(len(rows), seed=space.seed)
    hidden = choose.hiding(known, cold)
    ready = ordered(rows, hidden, fit_map(rows, hidden), space.dial, space.basis)
    less = seq.keep(~cold[seq.items])
    found = _trained(space, ready, less, steps=space.steps)
    return choose.choose_novelty(space.dial, *ready, found.residuals, hidden.support, judge)


def _trained(
    space: ItemSpace,
    ready: tuple[Vectors, Vectors],
    seq: Sequences,
    *,
    steps: int | None,
    quality: residuals.Quality | None = None,
) -> residuals.Trained:
    return residuals.train(
        *ready,
        seq,
        space.dims,
        recency=space.recency,
        dial=space.dial,
        seed=space.seed,
        steps=steps,
        quality=quality,
    )


def _head(rows: Vectors, train: Sequences, judge: choose.Judge, *, seed: int) -> Head:
    def quality(head: Head) -> float:
        judge.look("training the nested head")
        aligned = head(rows)
        return judge(aligned, aligned)

    found = pairs(train, window=PAIR_WINDOW, limit=MAX_PAIRS, seed=seed)
    checked = quality if len(judge.cases) else None
    return fit_head(rows, found, judge.dims, seed=seed, quality=checked)


def _anchors(known: Collaborative) -> Anchors:
    best = np.argsort(-known.support, kind="stable")[:ANCHORS]
    rows = np.sort(best[known.support[best] > 0]).astype(np.int32)
    return Anchors(rows, known.context[rows], known.target[rows])
