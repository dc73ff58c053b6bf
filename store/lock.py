"""One holder at a time: a lock that names its owner and is freed by the owner's death.

`WriterLock` is re-entrant in a process, whatever it is that other processes are kept out by: a
locked file (here) or a leased object (`store/lease.py`). It does not know what it protects.
"""

import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Protocol

from store.errors import StoreLocked

POLL = 0.05  # seconds between two attempts


class Hold(Protocol):
    """What keeps other processes out while this one is the owner."""

    def check(self) -> None:
        """Raise StoreLocked if another process may have become the owner."""
        ...

    def release(self) -> None:
        """Let others in."""
        ...

    def abandon(self) -> None:
        """Let go in a forked child, without letting others in: the parent is still the owner."""
        ...


@dataclass
class _Turn:
    """Which thread of this process has its turn, how deep in, and by what hold."""

    threads: threading.RLock = field(default_factory=threading.RLock)
    holds: list[Hold] = field(default_factory=list)  # the same one, once for every `with`


_turns: dict[Hashable, _Turn] = {}
_registry = threading.Lock()


class WriterLock:
    """A context manager around a hold, re-entrant in a process; entering again checks the hold.

    key: what is locked, the same for all that must exclude each other. acquire: takes the hold.
    """

    def __init__(self, key: Hashable, acquire: Callable[[], Hold]) -> None:
        self._key, self._acquire = key, acquire

    def __enter__(self) -> None:
        turn = _turn(self._key)
        turn.threads.acquire()
        try:
            if turn.holds:
                turn.holds[-1].check()
            turn.holds.append(turn.holds[-1] if turn.holds else self._acquire())
        except BaseException:
            turn.threads.release()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        turn = _turn(self._key)
        hold = turn.holds.pop()
        try:
            if not turn.holds:
                hold.release()
        finally:
            turn.threads.release()


def file_lock(path: Path, *, what: str, wait: float) -> WriterLock:
    """Return the lock that is a file, for the processes of one machine; `what` it locks is named.

    After `wait` seconds StoreLocked names the owner. The kernel frees the file when it dies.
    """
    return WriterLock(path, lambda: _lock_file(path, what, wait))


def owner() -> dict[str, object]:
    """Return what a lock says of its owner: this process, from now on."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(Path(part).name for part in sys.argv[:2]),
    }


def refusal(what: str, content: bytes, waited: float) -> StoreLocked:
    """Return the error of who waited in vain; content: the JSON of the `owner()`."""
    try:
        holder = json.loads(content)
        age = datetime.now(UTC) - datetime.fromisoformat(holder["since"])
        who = (
            f"process {holder['pid']} on {holder['host']} ({holder['command']}), "
            f"for {int(age.total_seconds())} s now"
        )
    except (ValueError, KeyError):  # the owner is just writing its name, or just leaving
        who = "another process"
    return StoreLocked(
        f"{what} is being written by {who}; waited {waited:.3g} s: "
        "try again when it has ended, or stop it"
    )


@dataclass(frozen=True, slots=True)
class _LockedFile:
    """The hold of this process on a lock file."""

    handle: int

    def check(self) -> None:
        """Nobody else can have it: the kernel keeps it until this process ends."""

    def release(self) -> None:
        """Forget the name and unlock."""
        os.ftruncate(self.handle, 0)
        fcntl.flock(self.handle, fcntl.LOCK_UN)  # a child just forked may have it open too
        os.close(self.handle)

    def abandon(self) -> None:
        """Close the child's copy of the handle."""
        os.close(self.handle)


def _lock_file(path: Path, what: str, wait: float) -> _LockedFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + wait
    try:
        while not _try_lock(handle):
            if time.monotonic() >= deadline:
                raise refusal(what, os.pread(handle, 4096, 0), wait)
            time.sleep(POLL)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(owner()).encode(), 0)
    except BaseException:
        os.close(handle)
        raise
    return _LockedFile(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _turn(key: Hashable) -> _Turn:
    _watch_forks()
    with _registry:
        return _turns.setdefault(key, _Turn())


@cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    """Let go, in a forked child, of what its parent holds: the lock must die with the parent."""
    for turn in _turns.values():
        if turn.holds:
            turn.holds[-1].abandon()
    _turns.clear()
