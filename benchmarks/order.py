"""What ids say of the order of items: it leaks where equal times are ordered by id.

It knows a catalogue's file of items, sequences of row numbers and splits.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from alignment.interactions import Ints, Sequences, Split
from alignment.whiten import Bits


def id_order(catalogue: Path, ids: Any) -> Ints | None:
    """Rank items by ASIN; None in a catalogue without them."""
    items = catalogue / "items.parquet"
    if not items.exists() or "asin" not in pq.read_schema(items).names:
        return None
    table = pq.read_table(items, columns=["item_id", "asin"])
    known = table["asin"].take(pc.index_in(ids, table["item_id"].combine_chunks()))
    return np.unique(known.to_numpy(zero_copy_only=False), return_inverse=True)[1]


def ascending_share(seq: Sequences, order: Ints) -> float:
    """Share of neighbours in a user's sequence that ascend in `order`, int [items]; .5 by chance.

    The Amazon files order equal days by item id, which makes a sequence model look better than it
    is. Neighbours of one rank do not count; without any it is .5.
    """
    rank_of = np.asarray(order)[seq.items]
    step = np.diff(rank_of)[seq.users[:-1] == seq.users[1:]]
    steps = np.count_nonzero(step)
    return np.count_nonzero(step > 0) / steps if steps else 0.5


def descending_last_pair(split: Split, order: NDArray[np.integer]) -> Bits:
    """Mark the evaluated users whose test target comes before their last history item in `order`.

    What an order of ids gives away cannot help there.
    """
    rank_of = np.asarray(order)
    return rank_of[split.test] < rank_of[split.validation]
