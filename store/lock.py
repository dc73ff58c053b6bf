"""One holder at a time: a file lock that names its owner and is freed by the owner's death.

It knows files and processes, not what it protects.
"""

import fcntl
import json
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType

from store.errors import StoreLocked

POLL = 0.05  # seconds between two attempts


@dataclass
class _Held:
    """The hold of this process on one lock file."""

    threads: threading.RLock = field(default_factory=threading.RLock)
    depth: int = 0
    handle: int = -1


_held: dict[Path, _Held] = {}
_registry = threading.Lock()


class WriterLock:
    """A context manager around an exclusive lock file, re-entrant in a process."""

    def __init__(self, path: Path, *, what: str, wait: float) -> None:
        self._path, self._what, self._wait = path, what, wait

    def __enter__(self) -> None:
        held = _hold(self._path)
        held.threads.acquire()
        try:
            if held.depth == 0:
                held.handle = self._acquire()
        except BaseException:
            held.threads.release()
            raise
        held.depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        held = _hold(self._path)
        held.depth -= 1
        if held.depth == 0:
            os.ftruncate(held.handle, 0)
            fcntl.flock(held.handle, fcntl.LOCK_UN)  # a child just forked may have it open too
            os.close(held.handle)
        held.threads.release()

    def _acquire(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + self._wait
        try:
            while not _try_lock(handle):
                if time.monotonic() >= deadline:
                    raise StoreLocked(self._refusal(os.pread(handle, 4096, 0)))
                time.sleep(POLL)
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(_owner()).encode(), 0)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _refusal(self, content: bytes) -> str:
        try:
            owner = json.loads(content)
            age = datetime.now(UTC) - datetime.fromisoformat(owner["since"])
            who = (
                f"process {owner['pid']} on {owner['host']} ({owner['command']}), "
                f"for {int(age.total_seconds())} s now"
            )
        except (ValueError, KeyError):  # the owner is just writing its name, or just leaving
            who = "another process"
        return (
            f"{self._what} is being written by {who}; waited {self._wait:g} s: "
            "try again when it has ended, or stop it"
        )


def _hold(path: Path) -> _Held:
    _watch_forks()
    with _registry:
        return _held.setdefault(path, _Held())


@cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    """Let go, in a forked child, of what its parent holds: the lock must die with the parent."""
    for held in _held.values():
        if held.depth:
            os.close(held.handle)
    _held.clear()


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(Path(part).name for part in sys.argv[:2]),
    }
