"""From item ids to rows: a flat, mapped hash index that all processes of a machine share.

It knows ids and rows. Whether a file of it is whole, `store.sealed` knows.

An index is a table without collisions, after Belazzougui, Botelho and Dietzfelbinger, "Hash,
displace, and compress" (2009): the upper bits of an id's 64-bit hash name a bucket, the bucket's
displacement sends each of its ids to a slot that no other id has, and the slot holds the hash and
the row. So every look-up reads one displacement and one slot. Hashes are keyed at random for every
index; two ids whose hashes are equal are found when it is built, which then takes another key. An
id that is not there is taken for one that is with a probability of 2^-64.
"""

import secrets

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store import _lookup

SLOTS_PER_ID = 1.5  # 24 MB per million ids; fewer take longer to place, more to fetch
IDS_PER_BUCKET = 4
KEYS = 8  # tried; that two are needed has a chance of 10^-7 among a million ids
HEADER = 5  # uint64: the key of 16 bytes, buckets, slots, ids


class Index:
    """From item id to row: 1 for the first item, 0 for an id that is not there."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        words = data[: len(data) // 8 * 8].view(np.uint64)
        buckets, slots, self.size = words[2:HEADER].tolist()
        end = HEADER + 2 * slots
        self._key = words[:2].tobytes()
        self._slots = words[HEADER:end]
        self._displacements = data[8 * end : 8 * end + 2 * buckets].view(np.uint16)

    def find(self, ids: list[str]) -> tuple[NDArray[np.int64], int]:
        """Return the row of every id, repeats and order kept, and how many are not there.

        Where one of them is no string the rows mean nothing and the number is -1.
        """
        rows = np.empty(len(ids), np.int64)
        missing = _lookup.find(ids, self._key, self._displacements, self._slots, rows)
        return rows, missing

    def rows(self, ids: list[str]) -> NDArray[np.int64]:
        """Return the row of every id, repeats and order kept."""
        return self.find(ids)[0]


def build(ids: pa.Array) -> list[memoryview]:
    """Return the bytes of the index of distinct ids, a string array in row order."""
    ids = pa.concat_arrays([ids]) if ids.offset else ids
    buckets = 1 << max(1, (len(ids) // IDS_PER_BUCKET).bit_length())
    hashes = np.empty(len(ids), np.uint64)
    _, offsets, text = ids.buffers()
    for _ in range(KEYS):
        key = secrets.token_bytes(16)
        slots = np.zeros(2 * max(4, int(SLOTS_PER_ID * len(ids))), np.uint64)
        displacements = np.zeros(buckets, np.uint16)
        _lookup.hash_ids(offsets, text or b"", key, hashes)
        if _lookup.place(hashes, displacements, slots):
            sizes = np.array([buckets, len(slots) // 2, len(ids)], np.uint64)
            return [memoryview(key), sizes.data, slots.data, displacements.data]
    raise ValueError(f"{len(ids)} ids find no place in an index: is one there twice?")
