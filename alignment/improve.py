"""Trains what a log adds in a space, and chooses by it how the log is read, and for how long.

A space is given, and the evidence in its frame; how a space is fitted, it does not know.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from alignment import choose
from alignment.collaborative import Collaborative, Recipe
from alignment.fuse import Residuals, fused
from alignment.interactions import Sequences
from alignment.reading import takes_again
from alignment.residuals import DEFAULT_SCHEDULE
from alignment.space import ItemSpace
from matryoshka.prefix import Vectors
from matryoshka.train import at_once


class Fitted(NamedTuple):
    """A space, and the evidence about the training period that it was fitted to."""

    space: ItemSpace
    known: Collaborative
    residuals: Residuals


class Look(NamedTuple):
    """What a training gave, and its value on validation."""

    value: float
    fitted: Fitted

    @property
    def recipe(self) -> Recipe:
        """How the log was read."""
        return self.fitted.space.recipe

    def order(self) -> tuple[float, int]:
        """Rank by value, and equals by how long was trained."""
        return self.value, self.fitted.space.steps


def improved(
    space: ItemSpace,
    ready: tuple[Vectors, Vectors],
    known: Collaborative,
    seq: Sequences,
    judge: choose.Judge,
) -> Fitted:
    """Train residuals, and choose by what they give how fast histories fade and how long it takes.

    Trainings a quarter as long tell how fast: as is read now, or at a recency next to it, and on
    from there while it gets better. It takes the whole schedule, a quarter, half where a quarter is
    better, or nothing. The rate fades to the end each time: a training that is cut off leaves much
    to chance. New items reach as far as known ones meanwhile. The whole is trained beside the
    quarters, and again if they change the recency.
    """
    level, whole = replace(space.dial, novelty=1.0), DEFAULT_SCHEDULE.length(seq)
    space = replace(space, spare=takes_again(seq))

    def look(recipe: Recipe, steps: int) -> Look:
        judge.look("training on the log")
        now = replace(space, recipe=recipe, steps=steps)
        added = now.train(*ready, seq, steps=steps)
        value = judge.faded(now.recency)(*fused(*ready, known.support, level, added))
        return Look(value, Fitted(now, known, added))

    if not len(judge.cases):
        return Fitted(replace(space, steps=whole), known, space.train(*ready, seq, steps=whole))
    long, quarter = at_once(
        lambda: look(space.recipe, whole),
        lambda: _climbed(space.recipe, lambda recipe: look(recipe, whole // 4)),
    )
    recipe = quarter.recipe
    if recipe != space.recipe:
        long = look(recipe, whole)
    best = max(quarter, long, look(recipe, 0), key=Look.order)
    if best is quarter:
        best = max(best, look(recipe, whole // 2), key=Look.order)
    return best.fitted


def _climbed(recipe: Recipe, look: Callable[[Recipe], Look]) -> Look:
    """Look at the recencies next to a recipe's, and go on from the best while it gets better."""
    tried = choose.near(recipe)
    best = max(map(look, tried), key=lambda each: (each.value, each.recipe == recipe))
    while further := [each for each in choose.near(best.recipe) if each not in tried]:
        tried += further
        best = max(best, *map(look, further), key=lambda each: each.value)  # the first of equals
    return best
