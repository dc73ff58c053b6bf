"""Files that are complete or not there: bytes, a checksum of every block of them, a footer.

It knows bytes. It does not know what they mean.

A file appears by a rename, so nobody sees half of one. Reading checks its length and its footer at
once, and each block when somebody first asks for it: opening costs the same at any size, and no
byte is handed out that differs from what was written.
"""

import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store import _lookup

# magic, bytes before the checksums, bytes of a block, checksum of both and of the checksums
FOOTER = struct.Struct("<8sQQQ")
MAGIC = b"ITMNEST2"
# To find that a block is not proven costs 20 µs; so each time more are proven, which takes 30 µs,
# until all are: after 2,000 times in a file of 512 MB.
AHEAD = 64
BLOCK = 4096  # what a disk reads at least; a checksum of 8 bytes each


class Damaged(Exception):
    """A file does not hold what was written."""


class Sealed:
    """A mapped file. `data` is uint8 [n]; ask `check` before you read a part of it.

    private: what is written into `data` stays in this map.
    """

    def __init__(self, path: Path, *, private: bool = False) -> None:
        mode = "c" if private else "r"
        mapped = np.memmap(path, np.uint8, mode).view(np.ndarray)  # ValueError: empty
        if len(mapped) < FOOTER.size:
            raise Damaged(path)
        magic, size, self.block, total = FOOTER.unpack(mapped[-FOOTER.size :].tobytes())
        sums = mapped[_padded(size) : -FOOTER.size]
        if magic != MAGIC or len(sums) != 8 * _blocks(size, self.block):
            raise Damaged(path)
        self._sums = sums.view(np.uint64)
        if _total(self._sums, size, self.block) != total:
            raise Damaged(path)
        self.path, self.data = path, mapped[:size]
        self.seen = np.zeros(len(self._sums), np.uint8)
        self._swept = 0

    def check(self, blocks: NDArray[np.int64] | None = None) -> None:
        """Prove the blocks, by default all, that have not been yet; Damaged if one differs."""
        fresh = np.flatnonzero(self.seen == 0) if blocks is None else self._unseen(blocks)
        found = np.empty(len(fresh), np.uint64)
        _lookup.checksums(self.data, self.block, fresh, found)
        if (found != self._sums[fresh]).any():
            raise Damaged(self.path)
        self.seen[fresh] = 1

    def _unseen(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of the blocks that are not proven, and some of the next ones in the file."""
        fresh = blocks[self.seen[blocks] == 0]
        return np.unique(np.concatenate([fresh, self._ahead(AHEAD)])) if len(fresh) else fresh

    def _ahead(self, count: int) -> NDArray[np.int64]:
        """Return the blocks that are not proven among the next `count` that nobody asked for."""
        start, self._swept = self._swept, self._swept + count
        return start + np.flatnonzero(self.seen[start : start + count] == 0)


class Content(NamedTuple):
    """What a file will hold: its chunks, one after the other, and how many bytes are one block."""

    chunks: Callable[[], Iterable[memoryview]]
    block: int = BLOCK


def write(path: Path, content: Content) -> None:
    """Write a file; a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as file:
            for chunk in content.chunks():
                file.write(chunk)
            size = file.tell()
            file.write(bytes(_padded(size) - size))
        # Not flushed to the disk: what a crash of the machine loses, the checksums tell.
        sums = _checksums(draft, size, content.block)
        with draft.open("ab") as file:
            file.write(sums.data)
            file.write(FOOTER.pack(MAGIC, size, content.block, _total(sums, size, content.block)))
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read(path: Path, *, private: bool = False) -> Sealed | None:
    """Map a file; None when it is absent, cut short, or its checksums are changed."""
    try:
        return Sealed(path, private=private)
    except (FileNotFoundError, ValueError, Damaged):
        return None


def _checksums(path: Path, size: int, block: int) -> NDArray[np.uint64]:
    sums = np.empty(_blocks(size, block), np.uint64)
    if size:
        data = np.memmap(path, np.uint8, "r", shape=(size,)).view(np.ndarray)
        _lookup.checksums(data, block, np.arange(len(sums)), sums)
    return sums


def _total(sums: NDArray[np.uint64], size: int, block: int) -> int:
    words = np.concatenate([np.array([size, block], np.uint64), sums])
    total = np.empty(1, np.uint64)
    _lookup.checksums(words, words.nbytes, np.zeros(1, np.int64), total)
    return int(total[0])


def _blocks(size: int, block: int) -> int:
    return -(-size // max(1, block))


def _padded(size: int) -> int:
    return -(-size // 8) * 8
