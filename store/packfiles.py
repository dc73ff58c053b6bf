"""The files of packs on this machine: where they are, how they come, when they go.

It knows folders, locks and checksums. It does not know what is in the files.

A file is built when it is first opened, under a lock, by a writer that renames it into place; it is
proven before a byte of it is read, and built anew when it is damaged. Other releases' files are
removed by age and size. Who has one mapped keeps reading it.
"""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from store import aside, sealed
from store.errors import BadPack
from store.forks import forked
from store.lock import WriterLock, file_lock
from store.paths import cache_folder
from store.releases import Release
from store.sealed import Content, Sealed
from store.tables import Tables

IDLE_DAYS = 7  # packs of releases that nobody has opened for so long are removed
DISK_SHARE = 4  # and those used longest ago, while all fill more than a quarter of the disk
BUILD_WAIT = 600.0  # seconds to wait for another process that is building


class PackFiles:
    """The files of one release: in the store's folder or, if that may not be, in the cache."""

    def __init__(self, tables: Tables, release: Release) -> None:
        self._tables, self._release = tables, release
        self._chosen: Path | None = None

    def open(
        self,
        name: str,
        content: Content,
        blocks: NDArray[np.int64] | None = None,
        *,
        private: bool = False,
    ) -> Sealed:
        """Map a file whose blocks (None: all) are proven, built first when absent or damaged."""
        path = self._folder / name
        if (file := _sound(path, blocks, private)) is not None:
            return file
        try:
            with self._lock(path):
                if _sound(path, blocks, private) is None:
                    self._build(path, content)
        except OSError as error:
            if error.errno is None:  # of Lance, while it read the release
                raise
            raise BadPack(
                f"{path} cannot be written: {error.strerror}; make room, or set "
                "XDG_CACHE_HOME to a folder with room and the store's folder to read-only"
            ) from error
        if (file := _sound(path, blocks, private)) is None:
            raise BadPack(f"{path} does not read back as it was written: check the disk")
        return file

    def _build(self, path: Path, content: Content) -> None:
        if forked():
            aside.build(self._tables, self._release, path.name)
            return
        for draft in path.parent.glob(f"{path.name}.*.draft"):  # of a killed builder
            draft.unlink()
        sealed.write(path, content)
        _evict(path.parent)

    def _lock(self, path: Path) -> WriterLock:
        """Return the lock of all packs here: nobody removes a folder in which another builds."""
        name = ".aside.lock" if forked() else ".lock"  # the process aside takes the other one
        return file_lock(path.parent.parent / name, what=f"the pack {path}", wait=BUILD_WAIT)

    @property
    def _folder(self) -> Path:
        if self._chosen is None:
            local = self._tables.folder
            own = local is not None and _writable(local / "packs" / self._release.stamp)
            home = local if local is not None and own else cache_folder(self._tables.uri)
            self._chosen = home / "packs" / self._release.stamp
            with suppress(OSError):
                os.utime(self._chosen)  # used now
        return self._chosen


def _writable(folder: Path) -> bool:
    """Say whether a folder may be written, or made in the nearest one above that exists."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(there, os.W_OK)


def _sound(path: Path, blocks: NDArray[np.int64] | None, private: bool) -> Sealed | None:
    file = sealed.read(path, private=private)
    try:
        if file is not None:
            file.check(blocks)
    except sealed.Damaged:
        return None
    return file


def _evict(used: Path) -> None:
    """Remove other releases' packs by age and size; who has them mapped keeps reading them."""
    room = shutil.disk_usage(used).total // DISK_SHARE - _bytes(used)
    others = [path for path in used.parent.iterdir() if path != used and path.is_dir()]
    for path in sorted(others, key=_last_used, reverse=True):
        room -= _bytes(path)
        if room < 0 or time.time() - _last_used(path) > IDLE_DAYS * 86400:
            shutil.rmtree(path, ignore_errors=True)


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # somebody has just removed it
        return 0.0


def _bytes(folder: Path) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except FileNotFoundError:
        return 0
