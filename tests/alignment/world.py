"""A planted world: who follows whom is known, and content tells it to those who can read it."""

from dataclasses import dataclass

import numpy as np

from alignment.interactions import Sequences, from_log
from alignment.whiten import MODALITIES, Content, Encoded
from matryoshka.prefix import Vectors, unit

DIMS = (8, 16, 32)


@dataclass(frozen=True)
class World:
    """Item i is of chain[i]; users walk one chain item by item, a few steps at a time."""

    content: Content
    sequences: Sequences
    chain: np.ndarray


def content_of(n: int, **parts: Encoded) -> Content:
    """The content of n items that have these modalities only."""
    return Content(**{name: parts.get(name, Encoded.none(n)) for name in MODALITIES})


def only_text(text: Vectors) -> Content:
    return content_of(len(text), text=Encoded(text, np.ones(len(text), bool)))


def plant(*, chains: int = 12, length: int = 15, users: int = 500, seed: int = 0) -> World:
    """Chains of items; a user walks 5 to 9 steps of one chain, in order and with few slips."""
    rng = np.random.default_rng(seed)
    n = chains * length
    chain = np.repeat(np.arange(chains), length)
    tastes = rng.standard_normal((chains, 24))
    text = unit((tastes[chain] + 1.5 * rng.standard_normal((n, 24))).astype(np.float32))
    who, what, when = [], [], []
    for user in range(users):
        steps = rng.integers(5, 10)
        start = rng.integers(0, length - steps + 1)
        walk = rng.integers(0, chains) * length + start + np.arange(steps)
        slips = rng.random(steps) < 0.05
        walk[slips] = rng.integers(0, n, slips.sum())
        who += [user] * steps
        what += walk.tolist()
        when += range(steps)
    return World(only_text(text), from_log(who, what, when, n_items=n, seed=seed), chain)
