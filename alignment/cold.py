"""Items held out of everything that learns from behaviour, as new ones are, and who asks for them.

It knows splits and row numbers; what is fitted without the items, it does not.
"""

from dataclasses import dataclass

import numpy as np

from alignment.consumer import Score, Trial, blocks, trial
from alignment.interactions import Split, playing_cold
from alignment.whiten import Bits

HELD_OUT = 1000  # added to the seed: a draw of its own, not the one a fit of this seed makes


def held_out(n: int, *, seed: int) -> Bits:
    """Draw a tenth of the items to judge new ones by, bool [n]: a draw apart from that of a fit."""
    return playing_cold(n, seed=HELD_OUT + seed)


def without(split: Split, held: Bits) -> Split:
    """Return the split as if the held items did not exist yet."""
    stay = ~(held[split.validation] | held[split.test])
    return Split(
        split.train.keep(~held[split.train.items]),
        split.users[stay],
        split.validation[stay],
        split.test[stay],
    )


@dataclass(frozen=True, slots=True)
class ColdTrials:
    """The users whose test target is held out, and all others; no history has a held item."""

    cold: Trial
    warm: Trial


def cold_trials(
    split: Split, held: Bits, *, max_users: int | None = None, seed: int = 0
) -> ColdTrials:
    """Set the test targets behind histories without the held items, a sample above `max_users`."""
    every = trial(split, on="test").without(held)
    found: list[Trial] = []
    for users in (np.flatnonzero(held[every.targets]), np.flatnonzero(~held[every.targets])):
        if max_users is not None and len(users) > max_users:
            users = np.sort(np.random.default_rng(seed).choice(users, max_users, replace=False))
        found.append(every.only(users))
    return ColdTrials(*found)


def share_in_top(score: Score, cases: Trial, held: Bits, *, k: int = 10) -> float:
    """Share of held items in the users' k best; fair is their share of the catalogue."""
    k = min(k, len(held))
    counts = [
        np.count_nonzero(held[np.argpartition(-score(cases.history[rows]), k - 1, axis=1)[:, :k]])
        for rows in blocks(cases)
    ]
    return sum(counts) / max(1, k * len(cases))
