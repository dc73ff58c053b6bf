"""Trains what a log adds to item vectors: a residual per item and role, good at every prefix.

The objective is consumer A's own reading (reading.py). It knows two tables of the same items and
sequences of their rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from alignment import limits, reading
from alignment.fuse import REACH, Dial, Residuals
from alignment.interactions import Rows, Sequences
from alignment.reading import Schedule
from matryoshka.prefix import Vectors
from matryoshka.train import reproducible

DEFAULT_SCHEDULE = Schedule()


class Table(NamedTuple):
    """One role's rows, what is added to them, and how far it is believed."""

    rows: Tensor
    residuals: Tensor
    trust: Tensor


def train(
    context: Vectors,
    target: Vectors,
    seq: Sequences,
    dims: Sequence[int],
    *,
    recency: float,
    dial: Dial,
    seed: int,
    spare: bool = False,
    schedule: Schedule = DEFAULT_SCHEDULE,
) -> Residuals:
    """Train residuals of unit rows float32 [n, d], which stay zero for items without events.

    dims: published granularities; a prefix of m reads m - 1 coordinates of these rows, behind the
    one that the reach of a target takes (fuse.py). A residual of an item of n events counts
    n / (n + dial.n0), and is `dial.bound` long at most. spare: nothing that a user has competes
    with what the user takes (reading.py).
    """
    support = limits.support(seq, limits.checked(None, seq.n_users))
    tables = [_table(rows, support, dial) for rows in (context, target)]
    moving = torch.optim.SparseAdam([table.residuals for table in tables], lr=schedule.rate)
    read = _read(tables[0], tables[1], dial)
    with reproducible():
        for _ in reading.trained(
            read, moving, seq, dims, recency=recency, spare=spare, seed=seed, schedule=schedule
        ):
            pass
    return _read_off(tables, dial)


def _table(rows: Vectors, support: Rows, dial: Dial) -> Table:
    trust = (support / (support + dial.n0)).astype(np.float32)[:, None]
    return Table(
        torch.from_numpy(rows),
        torch.zeros(rows.shape, requires_grad=True),
        torch.from_numpy(trust),
    )


def _read(context: Table, target: Table, dial: Dial) -> reading.Tables:
    """Read rows with what is added to them; targets are unit rows before they get their reach."""
    return reading.Tables(
        lambda items: context.rows[items] + _added(context, items, dial),
        lambda items: functional.normalize(target.rows[items] + _added(target, items, dial), dim=1),
        _reached,
        behind=1,
    )


def _added(table: Table, items: Tensor, dial: Dial) -> Tensor:
    """Return what is added to some rows: believed as far as the evidence goes, and bounded."""
    found = functional.embedding(items, table.residuals, sparse=True) * table.trust[items]
    lengths = found.norm(dim=1, keepdim=True).clamp_min(1e-9)
    return found * (dial.bound / lengths).clamp_max(1)


def _read_off(tables: list[Table], dial: Dial) -> Residuals:
    """Return the residuals as they are added, in steps of a float16: half to store, none to see."""
    with torch.no_grad():
        every = torch.arange(len(tables[0].rows))
        context, target = (_added(table, every, dial).half().float().numpy() for table in tables)
    return Residuals(context, target)


def _reached(target: Tensor) -> Tensor:
    """Return what a unit prefix of a target vector has behind the coordinate of its reach."""
    slack = (1 - REACH**2) / REACH**2
    return target / (slack + (target * target).sum(1, keepdim=True)).sqrt()
