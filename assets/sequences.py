"""The stored log as sequences of today's rows, in an order that does not change as it grows.

What is learnt from them is alignment's.
"""

from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alignment.interactions import Sequences, from_log
from assets.inputs import load_ids
from assets.lake import Lake


def load_sequences(lake: Lake) -> Sequences:
    """Return every user's items, oldest first, as row numbers; independent of the log's order."""
    ids = load_ids(lake)
    order = [(name, "ascending") for name in ("user_id", "item_id", "timestamp")]
    log = lake.read("interactions", columns=[name for name, _ in order]).sort_by(order)
    users = log["user_id"].combine_chunks().dictionary_encode()
    codes, rows = users.indices.to_numpy(), pc.index_in(log["item_id"], ids).to_numpy()
    seed = lake.settings.seed
    return from_log(
        codes,
        rows,
        log["timestamp"].to_numpy(),
        n_items=len(ids),
        seed=seed,
        # By id, so that a growing log never reorders a user's past: yesterday's training events
        # must not become today's test targets.
        ties=mixed(hashes(users.dictionary, seed)[codes], hashes(ids, seed + 1)[rows]),
    )


def mixed(one: NDArray[np.uint64], two: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix two hashes into one by the finaliser of SplitMix64 (Steele et al., OOPSLA 2014).

    A plain sum or XOR would keep items of near hashes beside each other in every basket: an order
    that means nothing, and that a sequence model would learn all the same.
    """
    x = one + two
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hashes(ids: pa.Array, salt: int) -> NDArray[np.uint64]:
    """One 64-bit hash per id, the same whatever other ids there are."""
    key = salt.to_bytes(8, "little")
    hashed = (blake2b(item.encode(), digest_size=8, key=key).digest() for item in ids.to_pylist())
    return np.frombuffer(b"".join(hashed), np.uint64)
