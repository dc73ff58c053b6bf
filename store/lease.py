"""The writer lock of an object store: a lease on the object `.lock`, renewed while it is held.

Every step is a put on condition that the object is as it was last seen, so of two that act at once
one is refused; nothing is ever deleted. The holder renews, and so changes, the object every few
seconds. Who finds it unchanged for the whole of a lease, by a clock of its own, takes the holder
for dead and the lock for itself: no two machines need to agree on the time.

A holder that was only asleep is refused its next renewal, and `check` renews: what begins a write
under this lock knows that nobody else can have it before another lease has passed. What it does
not know is whether a write under way when it fell asleep will end; that is Lance's to settle.
"""

import json
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from store.errors import StoreLocked
from store.lock import WriterLock, owner, refusal
from store.objects import Objects, first_line, open_for_writing, version

if TYPE_CHECKING:
    from obstore import PutMode, UpdateVersion

PATH = ".lock"
SECONDS = 20.0  # of silence after which a holder counts as dead
BEATS = 4  # renewals in that time
FRESH = 1 / 20  # of it: a renewal younger than that needs no other; Google allows one a second
POLL = 0.2  # seconds between two looks at an object that another process holds
FREE = b"{}"


@dataclass(frozen=True, slots=True)
class _Found:
    """The lock object as it was read."""

    version: "UpdateVersion"
    content: bytes

    @property
    def holder(self) -> dict[str, Any]:
        """What the holder wrote, empty when the lock is free."""
        try:
            return json.loads(self.content)
        except ValueError:  # not ours: somebody who never renews
            return {"token": None}

    @property
    def lease(self) -> float:
        """The seconds for which the holder may be silent."""
        return self.holder.get("lease", SECONDS)


def object_lock(
    uri: str,
    options: Mapping[str, str] | None = None,
    *,
    wait: float,
    seconds: float = SECONDS,
) -> WriterLock:
    """Return the lock of the object store at `uri`, for the processes of all machines.

    After `wait` seconds StoreLocked names the owner, but one that is silent is given its lease to
    show that it lives. UnfitStore if the store ignores conditions on a put.
    """

    def acquire() -> Lease:
        lease = Lease(open_for_writing(uri, options), uri, seconds)
        return lease.acquire(wait)

    return WriterLock((uri, frozenset((options or {}).items())), acquire)


class Lease:
    """The hold of this process on the lock object."""

    def __init__(self, objects: Objects, uri: str, seconds: float) -> None:
        self._objects, self._uri, self._seconds = objects, uri, seconds
        self._content = {**owner(), "token": uuid.uuid4().hex, "lease": seconds, "beat": 0}
        self._version: UpdateVersion = {}
        self._renewed = 0.0  # when, by time.time(), the last renewal was sent
        self._renewing, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease of {uri}", daemon=True)

    def acquire(self, wait: float) -> Self:
        """Become the holder and begin to renew."""
        started, watch = time.monotonic(), _Watch()
        while not self._is_ours(found := _read(self._objects)):
            if found is None or not found.holder or watch.silence(found) > found.lease:
                self._put("create" if found is None else found.version)
                continue  # and read what became of it
            waited = time.monotonic() - started
            if waited >= wait and watch.alive:
                raise refusal(self._uri, found.content, waited)
            time.sleep(POLL)
        self._thread.start()
        return self

    def check(self) -> None:
        """Renew; StoreLocked if another process has taken the lock, or nobody can tell."""
        try:
            if self._renew():
                return
        except (BaseError, OSError) as error:
            raise StoreLocked(
                f"the lock of {self._uri} could not be renewed ({first_line(error)}); nothing more "
                "is written: run this again when the object store answers"
            ) from error
        raise StoreLocked(
            f"{self._uri}: this process was silent for {self._seconds:g} s or longer and another "
            "writer took the lock; nothing more is written: run this again"
        )

    def release(self) -> None:
        """Mark the object as free, unless another process has taken it."""
        self._ended.set()
        self._thread.join()
        # When that fails it is taken, or out of reach and ends by itself as after a death.
        with suppress(BaseError, OSError):
            self._objects.put(PATH, FREE, mode=self._version)

    def abandon(self) -> None:
        """Leave it to the parent, whose thread renews; a forked child has no such thread."""

    def _beat(self) -> None:
        while not self._ended.wait(self._seconds / BEATS):
            with suppress(BaseError, OSError):  # the next may come through; `check` has to know
                if not self._renew():
                    return

    def _renew(self) -> bool:
        """Change the object, unless that was just done; False if it is no longer ours."""
        with self._renewing:
            # Not the monotonic clock: that one stands still while the machine sleeps.
            if abs(time.time() - self._renewed) < FRESH * self._seconds:
                return True
            # Refused, it may still be ours: an earlier change arrived and its answer did not.
            return self._put(self._version) or (
                self._is_ours(_read(self._objects)) and self._put(self._version)
            )

    def _is_ours(self, found: _Found | None) -> bool:
        if found is None or found.holder.get("token") != self._content["token"]:
            return False
        self._version = found.version
        return True

    def _put(self, mode: "PutMode") -> bool:
        """Write the object, with content that it never had, if it is as `mode` says."""
        self._content["beat"] += 1
        started = time.time()
        try:
            put = self._objects.put(PATH, json.dumps(self._content).encode(), mode=mode)
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            return False
        self._version, self._renewed = version(put), started
        return True


class _Watch:
    """For how long a holder has been silent, by the clock of who waits."""

    def __init__(self) -> None:
        self.alive = False  # the object has changed under our eyes
        self._seen: UpdateVersion | None = None
        self._since = 0.0

    def silence(self, found: _Found) -> float:
        """Return the seconds for which the object has been as it is now."""
        if found.version != self._seen:
            self.alive = self._seen is not None
            self._seen, self._since = found.version, time.monotonic()
        return time.monotonic() - self._since


def _read(objects: Objects) -> _Found | None:
    try:
        got = objects.get(PATH)
    except FileNotFoundError:
        return None
    return _Found(version(got.meta), bytes(got.bytes()))
