"""Whether one way of ranking is better than another for the same users, and how surely.

It knows a number per user and way (a hit, a gain); what was ranked, it does not.
"""

from dataclasses import dataclass

import numpy as np

from alignment.consumer import Floats

BLOCK = 1 << 22  # draws held at once


@dataclass(frozen=True, slots=True)
class Paired:
    """Mean of a - b over users, its 95 % interval, and how likely a gap so far from 0 is by chance.

    p is two-sided: twice the smaller share of resamples on one side of 0, at most 1.
    """

    difference: float
    low: float
    high: float
    p: float


def paired_bootstrap(a: Floats, b: Floats, *, seed: int, rounds: int = 2000) -> Paired:
    """Compare two arrays of per-user values, user i at place i of both, by resampling users.

    Users of one difference are alike, so that a resample is a draw of how often each difference
    occurs: the exact bootstrap, and fast, since hits differ by -1, 0 or 1.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"values of {len(a)} and {len(b)} users: give the same users, one or more")
    values, counts = np.unique(np.asarray(a, float) - np.asarray(b, float), return_counts=True)
    rng, size = np.random.default_rng(seed), max(1, BLOCK // len(values))
    means = np.concatenate(
        [
            rng.multinomial(len(a), counts / len(a), min(size, rounds - done)) @ values / len(a)
            for done in range(0, rounds, size)
        ]
    )
    low, high = np.quantile(means, (0.025, 0.975))
    side = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    difference = float(counts @ values / len(a))
    return Paired(difference, float(low), float(high), min(1.0, 2 * (1 + side) / (1 + rounds)))
