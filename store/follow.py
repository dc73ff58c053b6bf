"""A thread that watches a channel and hands on each release that it comes to show.

It knows the log and the clock. What moving to a release means, it is told.
"""

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from functools import cache

from store import aside, releases
from store.forks import forked
from store.releases import Release
from store.tables import Tables

PERIOD = 0.25  # seconds between two looks at the log: a stat of its folder, or a request

log = logging.getLogger("itemnest")


class Follower:
    """Calls `move`, a bound method, until its object is gone; a forked child has one of its own."""

    def __init__(self, tables: Tables, channel: str, move: Callable[[Release], None]) -> None:
        self._tables, self._channel = tables, channel
        self._move = weakref.WeakMethod(move)
        _followers().add(self)
        self._start()

    def _start(self) -> None:
        name = f"itemnest {self._channel}"
        threading.Thread(target=self._watch, name=name, daemon=True).start()

    def _watch(self) -> None:
        seen, complaint = None, ""
        while self._move() is not None:
            time.sleep(PERIOD)
            try:
                if (now := self._mark()) != seen:
                    self._hand_on()
                    seen, complaint = now, ""
            except Exception as error:  # the old release is read on; the next look may succeed
                if str(error) != complaint:
                    complaint = str(error)
                    log.warning("%s does not move: %s", self._channel, complaint)

    def _mark(self) -> int | None:
        """Return a number that changes when the log does, without Lance where that can be."""
        if self._tables.folder:
            return os.stat(self._tables.folder / "releases.lance" / "_versions").st_mtime_ns
        return self._tables.version("releases")

    def _hand_on(self) -> None:
        find = aside.shown if forked() else releases.visible
        release = find(self._tables, self._channel)
        if (move := self._move()) is not None:
            move(release)


@cache
def _followers() -> "weakref.WeakSet[Follower]":
    found: weakref.WeakSet[Follower] = weakref.WeakSet()
    os.register_at_fork(after_in_child=lambda: [follower._start() for follower in list(found)])
    return found
