"""The Ray engine on a local cluster: order, deaths, poison, exceptions, nothing left behind."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from encoders.encoder import Item, ItemError, Outcome
from encoders.engine import EngineError

ray = pytest.importorskip("ray")

from encoders.ray_engine import (  # noqa: E402  after the check for ray
    PENDING,
    KillsItsWorker,
    RayEngine,
    _Piece,
    _Run,
)

# An earlier test may have imported lance; Ray's children run other programs at once.
pytestmark = pytest.mark.filterwarnings("ignore:lance is not fork-safe")
BATCHES = [list(range(start, start + 20)) for start in range(0, 400, 20)]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two cores' worth of a cluster on this machine."""
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}},
    )
    yield
    ray.shutdown()


class Squares:
    """Work that squares numbers, and does something else for some of them."""

    def __init__(self, odd: dict[int, Callable[[], object]] | None = None) -> None:
        self.odd = odd or {}

    def __call__(self) -> Callable[[Iterable[Sequence[int]]], Iterator[list[Outcome[int]]]]:
        return self._work

    def _work(self, batches: Iterable[Sequence[int]]) -> Iterator[list[Outcome[int]]]:
        for batch in batches:
            yield [self._one(number) for number in batch]

    def _one(self, number: int) -> Outcome[int]:
        if number in self.odd:
            self.odd[number]()
        if number % 7 == 3:
            return Outcome(None, ItemError(f"{number} is refused"))
        return Outcome(number * number)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DieOnce:
    """Kills the process that calls it first, of all that share the file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self) -> None:
        try:
            self.file.touch(exist_ok=False)
        except FileExistsError:
            return
        die()


def values(outcomes: Iterable[list[Outcome[int]]]) -> list[list[int | None]]:
    return [[outcome.value for outcome in batch] for batch in outcomes]


EXPECTED = [[None if n % 7 == 3 else n * n for n in batch] for batch in BATCHES]


def test_outcomes_come_in_order_refusals_among_them() -> None:
    outcomes = list(RayEngine().map(Squares(), BATCHES))
    assert values(outcomes) == EXPECTED
    assert str(outcomes[0][3].refusal) == "3 is refused"


def test_a_lost_worker_is_replaced_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    work = Squares({105: DieOnce(tmp_path / "died")})
    assert values(RayEngine().map(work, BATCHES)) == EXPECTED
    assert (tmp_path / "died").exists()


def test_an_item_that_kills_every_worker_is_named_and_the_rest_is_delivered() -> None:
    outcomes = list(RayEngine(retries=1).map(Squares({44: die}), BATCHES[:5]))
    refusal = outcomes[2][4].refusal
    assert isinstance(refusal, KillsItsWorker)
    assert (refusal.reason, refusal.lasting) == ("kills_its_worker", True)
    expected = [list(batch) for batch in EXPECTED[:5]]
    expected[2][4] = None
    assert values(outcomes) == expected


def test_more_fatal_items_than_allowed_end_the_run() -> None:
    work = Squares(dict.fromkeys(range(2, 9), die))
    with pytest.raises(EngineError, match="2 items have killed the actor that worked on them"):
        list(RayEngine(retries=1, fatal=1).map(work, [[0, 1], [2, 4], [5, 6]]))


class Broken:
    """Raises LookupError, as a fault of the program would."""

    def __call__(self) -> None:
        raise LookupError("no such layer")


def test_an_exception_of_the_work_ends_the_run_as_it_was_raised() -> None:
    with pytest.raises(LookupError, match="no such layer"):
        list(RayEngine().map(Squares({30: Broken()}), BATCHES[:4]))


def test_work_that_cannot_be_loaded_ends_the_run_as_it_was_raised() -> None:
    with pytest.raises(LookupError, match="no such layer"):
        list(RayEngine().map(Broken(), BATCHES[:1]))  # pyright: ignore[reportArgumentType]


def test_a_run_that_nobody_reads_on_is_ended() -> None:
    outcomes = RayEngine().map(Squares(), BATCHES)
    next(outcomes)
    outcomes.close()
    # Two further actors find no core until the first two have ended.
    assert values(RayEngine(patience=60).map(Squares(), BATCHES[:2])) == EXPECTED[:2]


def test_pictures_and_texts_can_be_sent_as_they_are() -> None:
    assert list(RayEngine().map(Lengths(), [[Item("ab", b"c"), Item("abc")]])) == [
        [Outcome(3), Outcome(3)]
    ]


class Lengths:
    """Work on items themselves instead of references."""

    def __call__(self) -> Callable[[Iterable[Sequence[Item]]], Iterator[list[Outcome[int]]]]:
        return lambda batches: (
            [Outcome(len(item.text or "") + len(item.image or b"")) for item in batch]
            for batch in batches
        )


def test_an_item_whose_last_worker_ran_out_of_memory_is_tried_again_another_day() -> None:
    piece = _Piece([PENDING], 0, ["the item"])
    run = _Run(RayEngine(retries=0), Squares(), iter([]))
    assert run._suspected(piece, ray.exceptions.OutOfMemoryError("too much")) == []
    (outcome,) = piece.outcomes
    assert outcome.refusal.reason == "out_of_memory"
    assert not outcome.refusal.lasting
