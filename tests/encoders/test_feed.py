"""The feed: order, bounded reading ahead, forwards beside decoding, and what runs out of memory."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Barrier, Event, get_ident
from threading import enumerate as enumerate_threads
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoders import feed, room
from encoders.encoder import Item, ItemError, Outcome, Prepared, text_of
from encoders.engine import LocalEngine
from encoders.feed import AHEAD, CHUNK, TooLarge, groups


@dataclass
class Lengths:
    """A real model of one number: the length of a text, which is also its size.

    fits: the most that a forward has memory for.
    """

    room: int = 8
    device: str = "cpu"
    fits: int = sys.maxsize
    prepared_in: set[int] = field(default_factory=set)
    ran_in: set[int] = field(default_factory=set)
    ran: list[list[int]] = field(default_factory=list)

    def prepare(self, item: Item, /) -> Prepared:
        self.prepared_in.add(get_ident())
        length = len(text_of(item))
        return Prepared(length, size=length, cut=length // 100)

    def collate(self, contents: Sequence[int], /) -> list[int]:
        return list(contents)

    def forward(self, batch: list[int], /) -> Sequence[int | ItemError]:
        self.ran_in.add(get_ident())
        self.ran.append(batch)
        if len(batch) * max(batch) > self.fits:
            raise MemoryError(f"{batch} is too much")
        return batch


def items(*lengths: int) -> list[Item]:
    return [Item(text="x" * length) for length in lengths]


def values(outcomes: list[Outcome[Any]]) -> list[Any]:
    return [outcome.value for outcome in outcomes]


@given(st.lists(st.lists(st.integers(0, 30), max_size=3 * CHUNK), max_size=9), st.integers(1, 4))
def test_what_goes_in_comes_out_in_order(batches: list[list[int]], threads: int) -> None:
    fed = feed.run(Lengths(), [items(*batch) for batch in batches], threads=threads)
    assert [values(outcomes) for outcomes in fed] == batches


def test_what_did_not_fit_into_a_text_is_told_with_its_item() -> None:
    (outcomes,) = feed.run(Lengths(), [items(250, 99, 500)])
    assert [outcome.cut for outcome in outcomes] == [2, 0, 5]


def test_batches_are_read_in_the_callers_thread_and_only_a_few_ahead() -> None:
    read: list[int] = []

    def endless() -> Iterator[list[Item]]:
        while True:
            read.append(get_ident())
            yield items(1)

    stream = feed.run(Lengths(), endless(), threads=2)
    next(stream)
    stream.close()
    assert set(read) == {get_ident()}
    assert len(read) <= 2 * AHEAD


def test_pictures_wait_undecoded_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "RAW_BYTES", 40 * CHUNK)
    read, decoded, most = 0, 0, 0

    class Decoding(Lengths):
        def prepare(self, item: Item, /) -> Prepared:
            nonlocal decoded
            decoded += 1  # one thread prepares
            return super().prepare(item)

    def pictures() -> Iterator[Item]:
        nonlocal read, most
        for _ in range(40 * CHUNK):
            most = max(most, read - decoded)
            read += 1
            yield Item(text="x", image=b"0123456789")

    (outcomes,) = feed.run(Decoding(), [pictures()], threads=1)
    assert len(outcomes) == 40 * CHUNK
    assert most <= 6 * CHUNK  # four chunks of 10 bytes per picture, and one on each side


def test_a_batch_is_prepared_while_another_one_runs() -> None:
    running, prepared = Event(), Event()

    class Meeting(Lengths):
        def prepare(self, item: Item, /) -> Prepared:
            if item.text == "xx":
                assert running.wait(60)
                prepared.set()
            return super().prepare(item)

        def forward(self, batch: list[int], /) -> Sequence[int | ItemError]:
            running.set()
            assert prepared.wait(60)
            return super().forward(batch)

    fed = feed.run(Meeting(), [items(1), items(2)], threads=2)
    assert [values(outcomes) for outcomes in fed] == [[1], [2]]


def test_forwards_of_a_batch_run_side_by_side_on_a_cpu() -> None:
    meeting = Barrier(2, timeout=60)

    class Meeting(Lengths):
        def forward(self, batch: list[int], /) -> Sequence[int | ItemError]:
            if 8 in batch:  # a rehearsal would be alone
                meeting.wait()
            return super().forward(batch)

    model = Meeting()
    (outcomes,) = feed.run(model, [items(9, 8, 8)], threads=2)
    assert values(outcomes) == [9, 8, 8]
    assert len(model.ran_in) == 2


def test_chunks_of_a_batch_are_prepared_side_by_side() -> None:
    meeting = Barrier(2, timeout=60)

    class Meeting(Lengths):
        def prepare(self, item: Item, /) -> Prepared:
            if item.text:
                meeting.wait()
            return super().prepare(item)

    batch = items(1, *[0] * (CHUNK - 1), 1)
    (outcomes,) = feed.run(Meeting(), [batch], threads=2)
    assert len(outcomes) == CHUNK + 1


def test_one_thread_talks_to_a_device_and_the_pool_prepares_for_it() -> None:
    model = Lengths(device="somewhere")
    fed = feed.run(model, [items(*range(3 * CHUNK)), items(4)], threads=3)
    assert [values(outcomes) for outcomes in fed] == [list(range(3 * CHUNK)), [4]]
    assert len(model.ran_in) == 1
    assert not model.ran_in & model.prepared_in


def test_a_device_gets_batches_that_were_collated_in_the_pool() -> None:
    class Collating(Lengths):
        def collate(self, contents: Sequence[int], /) -> list[int]:
            self.collated_in.add(get_ident())
            return super().collate(contents)

        def __init__(self) -> None:
            super().__init__(device="somewhere")
            self.collated_in: set[int] = set()

    model = Collating()
    list(feed.run(model, [items(1)], threads=2))
    assert len(model.collated_in) == 1
    assert not model.collated_in & model.ran_in


def test_a_refused_item_leaves_the_others_as_they_are() -> None:
    batch = items(*[1] * (CHUNK + 9))
    batch[CHUNK + 4] = Item(image=b"")
    (outcomes,) = feed.run(Lengths(), [batch])
    assert [row for row, outcome in enumerate(outcomes) if outcome.refusal] == [CHUNK + 4]
    assert values(outcomes) == [1] * (CHUNK + 4) + [None] + [1] * 4


def test_an_item_that_a_forward_refuses_leaves_the_others_as_they_are() -> None:
    class Picky(Lengths):
        def forward(self, batch: list[int], /) -> Sequence[int | ItemError]:
            return [ItemError("13 brings bad luck") if each == 13 else each for each in batch]

    (outcomes,) = feed.run(Picky(), [items(1, 13, 2)])
    assert values(outcomes) == [1, None, 2]
    assert str(outcomes[1].refusal) == "13 brings bad luck"


def prepared(*sizes: int, rows: int = 1) -> dict[int, Prepared]:
    return {key: Prepared(None, size=size, rows=rows) for key, size in enumerate(sizes)}


@given(
    st.lists(st.builds(Prepared, st.none(), st.integers(1, 50), st.integers(1, 4)), max_size=60),
    st.integers(1, 60),
    st.booleans(),
)
def test_groups_hold_every_item_once_within_the_room(
    items: list[Prepared], room: int, exact: bool
) -> None:
    found = list(groups(dict(enumerate(items)), room, exact=exact))
    assert sorted(key for group in found for key in group) == list(range(len(items)))
    for group in found:
        rows, sizes = (sum(items[key].rows for key in group), {items[key].size for key in group})
        assert len(group) == 1 or rows * max(sizes) <= room
        assert len(sizes) == 1 or not exact


def test_groups_are_of_like_sizes_and_as_large_as_the_room() -> None:
    assert list(groups(prepared(5, 1, 9, 1, 5, 1), 10)) == [[1, 3, 5], [0, 4], [2]]
    assert list(groups(prepared(5, 1, 9, 1, 5, 1), 4)) == [[1, 3, 5], [0], [4], [2]]
    assert list(groups(prepared(2, 1, 2, 1), 8)) == [[1, 3, 0, 2]]


def test_an_item_of_several_rows_takes_the_room_of_several() -> None:
    assert list(groups(prepared(2, 2, 2, rows=3), 12)) == [[0, 1], [2]]


def test_groups_of_one_size_are_not_joined_where_vectors_must_be_exact() -> None:
    assert list(groups(prepared(2, 1, 2, 1), 8, exact=True)) == [[1, 3], [0, 2]]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_on_a_cpu_no_item_is_padded_to_another_ones_size(lengths: list[int]) -> None:
    model = Lengths(room=64)
    list(feed.run(model, [items(*lengths)], threads=1))
    assert {len(set(batch)) for batch in model.ran} == {1}


def test_on_a_device_items_are_padded_to_fill_its_forwards() -> None:
    model = Lengths(room=64, device="somewhere")
    list(feed.run(model, [items(*range(8))]))
    assert model.ran[-1] == list(range(8))


def test_a_forward_that_runs_out_of_memory_is_run_in_halves() -> None:
    model = Lengths(room=64, fits=24)
    (outcomes,) = feed.run(model, [items(*[8] * 8)], threads=1)
    assert values(outcomes) == [8] * 8
    assert max(len(batch) for batch in model.ran if len(batch) * 8 <= 24) == 2


def test_later_batches_are_as_small_as_what_fitted() -> None:
    model = Lengths(room=64, fits=24)
    stream = feed.run(model, [items(*[8] * 8)] * 9, threads=1)
    assert all(values(outcomes) == [8] * 8 for outcomes in stream)
    assert sum(len(batch) * 8 > 24 for batch in model.ran) < 2 * 9  # each batch alone needs 3


def test_an_item_too_large_for_memory_is_told_and_the_others_are_delivered() -> None:
    (outcomes,) = feed.run(Lengths(room=64, fits=24), [items(8, 30, 8, 1)])
    assert values(outcomes) == [8, None, 8, 1]
    refusal = outcomes[1].refusal
    assert isinstance(refusal, TooLarge)
    assert (refusal.reason, refusal.lasting) == ("out_of_memory", False)


def test_running_out_of_memory_on_a_device_is_the_same() -> None:
    model = Lengths(room=64, fits=24, device="somewhere")
    (outcomes,) = feed.run(model, [items(8, 30, 8, 1, 8, 8)])
    assert values(outcomes) == [8, None, 8, 1, 8, 8]


@pytest.mark.parametrize("step", ["prepare", "collate", "forward"])
@pytest.mark.parametrize("device", ["cpu", "somewhere"])
def test_any_other_error_ends_the_run(step: str, device: str) -> None:
    class Broken(Lengths):
        pass

    def fail(self: Broken, _: Any) -> Any:
        raise ZeroDivisionError(step)

    setattr(Broken, step, fail)
    with pytest.raises(ZeroDivisionError, match=step):
        list(feed.run(Broken(device=device), [items(1, 2)]))


def test_encode_names_the_row_of_the_first_item_that_is_refused() -> None:
    class Angles(Lengths):
        dim, digest = 2, "angles"

        def forward(self, batch: list[int], /) -> Any:
            return [np.array([np.cos(n), np.sin(n)], np.float32) for n in batch]

    batch = items(*[1] * (CHUNK + 9))
    batch[CHUNK + 4] = batch[CHUNK + 5] = Item(image=b"")
    with pytest.raises(ValueError, match=f"row {CHUNK + 4}: the item has no text"):
        feed.encode(Angles(), batch)


def test_a_run_that_is_closed_early_leaves_no_thread_behind() -> None:
    stream = feed.run(Lengths(device="somewhere"), (items(1) for _ in range(10**9)), threads=2)
    next(stream)
    assert {"encode_0", "device_0"} <= {thread.name for thread in enumerate_threads()}
    stream.close()
    names = {thread.name.partition("_")[0] for thread in enumerate_threads()}
    assert not names & {"encode", "device"}


@pytest.mark.parametrize("threads", [1, 3])
def test_the_callers_torch_threads_are_left_as_they_were(threads: int) -> None:
    before = torch.get_num_threads()
    list(feed.run(Lengths(), [items(1, 2)], threads=threads))
    assert torch.get_num_threads() == before


def test_torchs_operators_have_one_thread_each_while_forwards_share_the_cores() -> None:
    seen: list[int] = []

    class Looking(Lengths):
        def forward(self, batch: list[int], /) -> Sequence[int | ItemError]:
            seen.append(torch.get_num_threads())
            return batch

    list(feed.run(Looking(), [items(1, 2)], threads=2))
    assert set(seen) == {1}


@pytest.mark.parametrize(("asked", "cores"), [("1", 1), ("nonsense", None), ("0", None)])
def test_the_environment_may_ask_for_fewer_threads(
    monkeypatch: pytest.MonkeyPatch, asked: str, cores: int | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    free = feed.available_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert feed.available_cores() == (cores or free)


# How much a forward may take


class Allocating(Lengths):
    """A model whose forwards take two megabytes per unit of size.

    Of 32 MiB and more, libc keeps nothing back for the next forward, which would go unmeasured.
    """

    def forward(self, batch: list[int], /) -> Sequence[int | ItemError]:
        taken = np.ones(len(batch) * max(batch) << 21, np.uint8)
        self.ran.append(batch)
        return batch if taken.all() else []


def limited(model: Lengths, megabytes: int) -> room.Room:
    return room.Room(model.room, model.device, memory=megabytes << 20)


@pytest.fixture
def measured() -> None:
    """Skip where the system does not tell how much memory was taken."""
    if room.peak_bytes("cpu", lambda: np.ones(64 << 20, np.uint8).sum()) < 60 << 20:
        pytest.skip("this system does not tell the peak of memory")


@pytest.mark.usefixtures("measured")
def test_forwards_shrink_to_the_memory_they_are_given() -> None:
    model = Allocating(room=400)
    (outcomes,) = feed.run(model, [items(*[20] * 20)], threads=1, room=limited(model, 260))
    assert values(outcomes) == [20] * 20
    assert [len(batch) for batch in model.ran[:2]] == [1, 2]
    assert max(len(batch) for batch in model.ran) == 6  # of 40 MiB each


@pytest.mark.usefixtures("measured")
def test_memory_is_shared_by_forwards_that_run_at_once() -> None:
    model = Allocating(room=400)
    list(feed.run(model, [items(*[20] * 20)], threads=2, room=limited(model, 260)))
    assert max(len(batch) for batch in model.ran) == 3


@pytest.mark.usefixtures("measured")
def test_one_item_of_the_largest_size_is_always_tried() -> None:
    model = Allocating(room=400)
    (outcomes,) = feed.run(model, [items(20, 20, 20)], threads=1, room=limited(model, 1))
    assert values(outcomes) == [20, 20, 20]
    assert max(len(batch) for batch in model.ran[2:]) == 1


def test_memory_that_suffices_leaves_the_models_own_room() -> None:
    model = Lengths(room=400)
    (outcomes,) = feed.run(model, [items(*[20] * 40)], threads=1)
    assert len(outcomes) == 40
    assert max(len(batch) for batch in model.ran) == 20


def test_only_the_first_batch_of_more_than_one_item_is_rehearsed() -> None:
    model = Lengths(room=1)
    list(feed.run(model, [items(3), items(1, 2), items(4, 4)], threads=1))
    assert model.ran == [[3], [2], [2, 2], [1], [2], [4], [4]]


def test_a_room_that_was_found_before_is_not_sought_again() -> None:
    model = Lengths(room=16)
    found = room.Room(model.room, model.device)
    list(feed.run(model, [items(8, 8)], threads=1, room=found))
    model.ran.clear()
    list(feed.run(model, [items(*[8] * 8)], threads=1, room=found))
    assert model.ran == [[8, 8]] * 4


def test_forwards_that_fail_side_by_side_shrink_the_room_to_what_fits_and_no_further() -> None:
    model = Lengths(room=64, fits=24)
    found = room.Room(model.room, model.device)
    list(feed.run(model, [items(*[8] * 32)], threads=1, room=found))
    assert found.size == 16


@pytest.mark.usefixtures("measured")
def test_the_peak_of_what_runs_is_told() -> None:
    taken = room.peak_bytes("cpu", lambda: np.ones(96 << 20, np.uint8).sum())
    assert 95 << 20 < taken < 110 << 20


def test_a_device_that_tells_nothing_has_the_models_own_room() -> None:
    model = Lengths(room=400, device="somewhere")
    list(feed.run(model, [items(*[20] * 40)], room=limited(model, 1)))
    assert max(len(batch) for batch in model.ran) == 20


def test_free_memory_is_told_in_bytes() -> None:
    assert 64 << 20 < room.free_bytes("cpu") < 1 << 50
    assert room.free_bytes("somewhere") == 0


def test_torchs_words_for_too_little_memory_are_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15, dtype=torch.uint8)
    assert room.out_of_memory(caught.value)


def test_numpys_words_for_too_little_memory_are_understood() -> None:
    with pytest.raises(MemoryError) as caught:
        np.empty(10**17, np.uint8)
    assert room.out_of_memory(caught.value)


def test_an_error_named_out_of_memory_is_understood_whatever_it_says() -> None:
    assert room.out_of_memory(type("OutOfMemoryError", (RuntimeError,), {})("no words"))


def test_other_errors_are_not_taken_for_too_little_memory() -> None:
    assert not room.out_of_memory(RuntimeError("shapes 3 and 4 do not match"))


# The engine that runs in this process


def test_the_local_engine_runs_in_order_and_loads_once() -> None:
    loaded: list[Lengths] = []

    def load() -> Any:
        loaded.append(Lengths())
        return lambda batches: feed.run(loaded[0], batches)

    batches = [items(1, 2), items(3), items()]
    outcomes = list(LocalEngine().map(load, batches))
    assert [values(each) for each in outcomes] == [[1, 2], [3], []]
    assert len(loaded) == 1


def test_the_local_engine_loads_nothing_when_there_is_nothing_to_encode() -> None:
    def load() -> Any:
        raise AssertionError("nobody should need the model")

    assert list(LocalEngine().map(load, [])) == []
