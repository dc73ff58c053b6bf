"""Where encoding runs: on the actors of a Ray cluster. Knows no model and no table.

An actor that dies (killed, out of memory, its machine lost) is replaced, and what it held is run
again. A batch that keeps killing actors is halved until the one item that does it is found, which
is refused; the rest of the batch is delivered. Needs the extra `ray`.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import ray
from ray import exceptions

from encoders.encoder import ItemError, Outcome
from encoders.engine import EngineError, Ref, Work
from encoders.feed import TooLarge

T = TypeVar("T")
DEATHS = (
    exceptions.RayActorError,  # killed, segfault, exit; or its machine cannot be reached
    exceptions.OutOfMemoryError,  # killed by Ray before the kernel would; takes bystanders along
    exceptions.ObjectLostError,  # a finished result went down with its machine
)
AHEAD = 2  # batches that an actor holds: the second travels while the first is worked on
PARTS = 4  # of a batch, in an actor
PENDING: Any = object()


class KillsItsWorker(ItemError):
    """An item that ends the process working on it, however often it is tried."""

    reason = "kills_its_worker"


@dataclass(frozen=True)
class RayEngine:
    """Runs batches on `workers` actors of the cluster that this process is connected to.

    retries: how often a batch is run again before it is halved. fatal: with more items than this
    that kill their actor, the run ends. patience: seconds without an answer of any actor before it
    ends.
    """

    workers: int = 2
    cpus: float = 1
    gpus: float = 0
    retries: int = 2
    fatal: int = 16
    patience: float = 3600

    def map(
        self, factory: Callable[[], Work[T]], batches: Iterable[Sequence[Ref]], /
    ) -> Generator[list[Outcome[T]], None, None]:
        """Yield one outcome per reference, batch by batch, in order; `factory` runs in the actors.

        An exception that the work raises ends the run: it is raised here, as it was there.
        """
        if not ray.is_initialized():  # else Ray starts a cluster of its own, silently
            raise EngineError("this process is not connected to a Ray cluster: call ray.init first")
        run = _Run(self, factory, iter(batches))
        try:
            yield from run.outcomes()
        except exceptions.RayTaskError as error:
            raise error.cause from error
        finally:
            for slot in run.slots if ray.is_initialized() else ():  # gone with their cluster
                ray.kill(slot.actor)


@dataclass(slots=True)
class _Piece:
    """A batch or part of one, and how often an actor died of it."""

    outcomes: list[Any]  # of the whole batch: its pieces share it
    start: int
    refs: Sequence[Any]
    deaths: int = 0

    def part(self, start: int, stop: int, deaths: int) -> "_Piece":
        """Return a part under suspicion; one item on its own has nearly all its retries again."""
        refs = self.refs[start:stop]
        return _Piece(self.outcomes, self.start + start, refs, 1 if len(refs) == 1 else deaths)


@dataclass(slots=True)
class _Slot:
    """An actor, and what it works on, oldest first; None stands for loading the work."""

    actor: Any
    held: deque[tuple[Any, _Piece | None]]

    def takes_more(self) -> bool:
        """Tell whether its work is loaded and nothing on it is under suspicion."""
        return all(piece and not piece.deaths for _, piece in self.held)


class _Actor:
    """Holds a model where the work is done."""

    def load(self, factory: Callable[[], Work[Any]]) -> None:
        self._work = factory()  # not in __init__: Ray keeps only the text of what that raises

    def run(self, refs: Sequence[Any]) -> list[Outcome[Any]]:
        """Work on a batch, in parts: one is decoded while another is in the model."""
        size = max(1, -(-len(refs) // PARTS))
        parts = [refs[at : at + size] for at in range(0, len(refs), size)]
        return [outcome for part in self._work(parts) for outcome in part]


@dataclass(slots=True)
class _Run:
    """One call of `map`: what is open, what waits, and who works on what."""

    engine: RayEngine
    factory: Callable[[], Work[Any]]
    batches: Iterator[Sequence[Any]]
    slots: list[_Slot] = field(default_factory=list)
    open: deque[list[Any]] = field(default_factory=deque)  # batches not delivered yet
    waiting: deque[_Piece] = field(default_factory=deque)
    fatal: int = 0
    stillborn: int = 0  # actors in a row that died before they had loaded their work

    def outcomes(self) -> Iterator[list[Any]]:
        while self._take_batches():
            self._hand_out()
            if any(outcome is PENDING for outcome in self.open[0]):
                self._receive()
            else:
                yield self.open.popleft()

    def _take_batches(self) -> bool:
        """Open batches, a few more than the actors hold; False once all are delivered."""
        while len(self.open) < (AHEAD + 1) * self.engine.workers:
            refs = next(self.batches, None)
            if refs is None:
                break
            self.open.append([PENDING] * len(refs))
            self.waiting.append(_Piece(self.open[-1], 0, refs))
        return bool(self.open)

    def _hand_out(self) -> None:
        """Bring the actors up to number, and give what waits to those that hold least."""
        for _ in range(self.engine.workers - len(self.slots)):
            self.slots.append(self._hire())
        while self.waiting:
            # A suspect is alone with its actor: Ray loses the answer to a piece when the next one
            # kills at once, so the oldest of several is not always what the actor died of.
            room = 1 if self.waiting[0].deaths else AHEAD
            free = [slot for slot in self.slots if slot.takes_more() and len(slot.held) < room]
            if not free:
                break
            slot = min(free, key=lambda slot: len(slot.held))
            piece = self.waiting.popleft()
            slot.held.append((slot.actor.run.remote(piece.refs), piece))

    def _hire(self) -> _Slot:
        options = {"num_cpus": self.engine.cpus, "num_gpus": self.engine.gpus, "max_restarts": 0}
        actor: Any = ray.remote(_Actor).options(**options).remote()
        return _Slot(actor, deque([(actor.load.remote(self.factory), None)]))

    def _receive(self) -> None:
        """Wait for the next answer of any actor, or the next death."""
        owners = {slot.held[0][0]: slot for slot in self.slots if slot.held}
        ready, _ = ray.wait(list(owners), timeout=self.engine.patience)
        if not ready:
            raise EngineError(
                f"no answer of any of {len(owners)} Ray actors in {self.engine.patience:g} seconds:"
                f" has the cluster {self.engine.cpus:g} free CPUs and {self.engine.gpus:g} GPUs "
                "for each?"
            )
        slot = owners[ready[0]]
        try:
            outcomes = ray.get(ready[0])
        except DEATHS as error:
            self._bury(slot, error)
            return
        _, piece = slot.held.popleft()
        if piece:
            piece.outcomes[piece.start : piece.start + len(piece.refs)] = outcomes
        else:
            self.stillborn = 0

    def _bury(self, slot: _Slot, error: Exception) -> None:
        """Take back what an actor held: the oldest is what it died of, the others only waited."""
        ray.kill(slot.actor)  # it may live on behind a lost connection
        self.slots.remove(slot)
        (_, suspect), *others = slot.held
        again = self._suspected(suspect, error) if suspect else []
        self.waiting.extendleft(reversed([*again, *(piece for _, piece in others if piece)]))
        self.stillborn += not suspect
        hopeless = isinstance(error, exceptions.RayActorError) and error.actor_init_failed
        if hopeless or self.stillborn > self.engine.retries * self.engine.workers:
            raise EngineError(f"the Ray actors die before they have loaded: {error}") from error

    def _suspected(self, piece: _Piece, error: Exception) -> list[_Piece]:
        """Return what to run next: the piece again, its halves, or nothing of a fatal item."""
        piece.deaths += 1
        if piece.deaths <= self.engine.retries:
            return [piece]
        if (end := len(piece.refs)) > 1:
            chance = max(1, self.engine.retries)
            return [piece.part(0, end // 2, chance), piece.part(end // 2, end, chance)]
        self.fatal += 1
        if self.fatal > self.engine.fatal:
            raise EngineError(
                f"{self.fatal} items have killed the actor that worked on them: the work or its "
                f"machines are at fault; the last death was: {error}"
            ) from error
        why = f"every process that worked on it died: {type(error).__name__}"
        short = isinstance(error, exceptions.OutOfMemoryError)
        piece.outcomes[piece.start] = Outcome(None, TooLarge(why) if short else KillsItsWorker(why))
        return []
