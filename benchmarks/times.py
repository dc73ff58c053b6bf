"""A shop as time passes: a split at one moment for everybody, and nights one after another.

It knows arrays; what is printed of them, and kept, is decided by who calls.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from alignment.consumer import Trial
from alignment.interactions import Ints, Sequences, Split, leave_last_out
from alignment.whiten import Content, Encoded

BEFORE = 0.9  # of the events lie before the moment
FIRST_NIGHT = 0.7  # of the events are there in the first night
NIGHTS = 5  # after the first


def has_times(seq: Sequences) -> bool:
    """Say whether events have times, or only places in their history."""
    return len(np.unique(seq.times)) > seq.longest


def at_one_moment(seq: Sequences) -> Split:
    """Learn from what everybody did before a moment, and test on what they did first after it.

    The last event before it is for validation. Users need two events before it and one after.
    """
    before = seq.times <= np.quantile(seq.times, BEFORE)
    past = seq.keep(before)
    here = (past.lengths >= 2) & (seq.lengths > past.lengths)
    users = np.flatnonzero(here)
    last = past.indptr[users + 1] - 1
    train = np.ones(len(past.items), bool)
    train[last] = False
    first = seq.indptr[users] + past.lengths[users]
    return Split(past.keep(train), users, past.items[last], seq.items[first])


@dataclass(frozen=True, slots=True)
class Night:
    """What there is in one night: the items so far, oldest first, and the log so far."""

    content: Content
    split: Split


def nights(content: Content, seq: Sequences) -> Iterator[Night]:
    """Let catalogue and log grow: the first night, and NIGHTS more up to all there is.

    An item is there from its first event on, one without events in the last night only. Items keep
    their row from night to night.
    """
    arrival = np.full(seq.n_items, np.iinfo(np.int64).max)
    np.minimum.at(arrival, seq.items, seq.times)
    order = np.argsort(arrival, kind="stable")
    rows = np.argsort(order).astype(np.int32)
    for share in np.linspace(FIRST_NIGHT, 1, NIGHTS + 1):
        until = np.quantile(seq.times, share, method="higher")
        n = seq.n_items if share == 1 else int(np.count_nonzero(arrival <= until))
        log = replace(seq, items=rows[seq.items]).keep(seq.times <= until)
        yield Night(_rows(content, order[:n]), leave_last_out(replace(log, n_items=n)))


def _rows(content: Content, rows: Ints) -> Content:
    return Content(*(Encoded(part.vectors[rows], part.has[rows]) for part in content.parts))


def among_first(cases: Trial, n: int) -> Trial:
    """Return the users whose target is one of the first n items, and of all items only those."""
    old = cases.only(np.flatnonzero(cases.targets < n))
    return Trial(old.history[:, :n], old.seen[:, :n], old.targets)
