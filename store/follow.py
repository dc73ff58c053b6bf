"""A thread that watches a channel and hands on each release that it comes to show.

It knows the log and the clock. What moving to a release means, it is told.
"""

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable
from functools import cache

from store import aside, releases
from store.errors import SpaceMismatch
from store.forks import forked
from store.releases import Release
from store.tables import Tables

PERIOD = 0.25  # seconds between two looks at the log: a stat of its folder, or a request
PATIENCE = 30.0  # seconds between two looks, at most, while they fail

log = logging.getLogger("itemnest")


class Follower:
    """Calls `move`, a bound method, until its object is gone; a forked child has one of its own."""

    def __init__(self, tables: Tables, channel: str, move: Callable[[Release], None]) -> None:
        self._tables, self._channel = tables, channel
        self._move = weakref.WeakMethod(move)
        self._seen: int | None = None
        _followers().add(self)
        self._start()

    def _start(self) -> None:
        self._ended = threading.Event()
        name = f"itemnest {self._channel}"
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        wait, complaint = PERIOD, ""
        while not self._ended.wait(wait) and self._move() is not None:
            try:
                self._look()
                wait, complaint = PERIOD, ""
            except Exception as error:  # the old release is read on; a later look may succeed
                wait = min(2 * wait, PATIENCE)
                if str(error) != complaint:
                    complaint = str(error)
                    log.warning("%s does not move: %s", self._channel, complaint)

    def _look(self) -> None:
        if (now := self._mark()) == self._seen:
            return
        find = aside.shown if forked() else releases.visible
        release = find(self._tables, self._channel)
        try:
            if (move := self._move()) is not None:
                move(release)
        except SpaceMismatch as error:  # it will not do better at the next look
            log.warning("%s does not move: %s", self._channel, error)
        self._seen = now

    def _mark(self) -> int | None:
        """Return a number that changes when the log does, without Lance where that can be."""
        if self._tables.folder:
            return os.stat(self._tables.folder / "releases.lance" / "_versions").st_mtime_ns
        return self._tables.version("releases")

    def _end(self) -> None:
        self._ended.set()
        self._thread.join(PERIOD)


@cache
def _followers() -> "weakref.WeakSet[Follower]":
    found: weakref.WeakSet[Follower] = weakref.WeakSet()
    os.register_at_fork(after_in_child=lambda: [follower._start() for follower in list(found)])
    # A thread that is inside Lance while Python ends would abort the process.
    atexit.register(lambda: [follower._end() for follower in list(found)])
    return found
