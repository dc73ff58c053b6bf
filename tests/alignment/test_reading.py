"""What a log asks of rows: its events, the histories before them, and how long it is read."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alignment import limits, reading
from alignment.consumer import MAX_HISTORY
from alignment.interactions import Ints, Sequences, from_log
from alignment.reading import (
    RECENT,
    Schedule,
    candidates,
    histories,
    spared,
    takes_again,
    usable,
)
from matryoshka.train import Loss


def test_histories_are_what_came_before_and_fade() -> None:
    seq = from_log([0, 0, 0, 1, 1], [4, 5, 6, 7, 8], [0, 1, 2, 0, 1], n_items=9, seed=0)
    items, offsets, weights = histories(seq, np.array([2, 4]), 0.5)
    assert items.tolist() == [4, 5, 7]
    assert offsets.tolist() == [0, 2]
    assert weights.tolist() == [0.5, 1, 1]


def test_long_histories_are_cut() -> None:
    n = reading.HISTORY + 9
    seq = from_log([0] * n, range(n), range(n), n_items=n, seed=0)
    items, _, _ = histories(seq, np.array([n - 1]), 0.9)
    assert items.tolist() == list(range(8, n - 1))


def test_slowly_fading_histories_are_read_further_back() -> None:
    n = 2 * MAX_HISTORY
    seq = from_log([0] * n, range(n), range(n), n_items=n, seed=0)
    lengths = {r: len(histories(seq, np.array([n - 1]), r)[0]) for r in (0.6, 0.9, 0.95, 0.99)}
    assert lengths == {0.6: reading.HISTORY, 0.9: reading.HISTORY, 0.95: 49, 0.99: MAX_HISTORY}


def test_believed_events_are_the_newest_and_few_of_a_kind() -> None:
    items = [1] * (limits.PER_ITEM + 3) + [2]
    seq = from_log([0] * len(items), items, range(len(items)), n_items=3, seed=0)
    assert limits.believed(seq).tolist() == [False] * 3 + [True] * (limits.PER_ITEM + 1)
    long = limits.CAP + 2
    seq = from_log([0] * long, range(long), range(long), n_items=long, seed=0)
    assert limits.believed(seq).tolist() == [False] * 2 + [True] * limits.CAP


def test_an_event_teaches_if_something_came_before_it() -> None:
    seq = from_log([0, 0, 0, 1, 2, 2], [4, 5, 6, 7, 8, 8], [0, 1, 2, 0, 0, 1], n_items=9, seed=0)
    assert usable(seq).tolist() == [1, 2, 5]


def walk(n_items: int) -> Sequences:
    """One user takes items from 3 on, one after the other; another one takes all others."""
    mine = np.arange(3, 9)
    others = np.setdiff1d(np.arange(n_items - 2), mine)  # the last two are new
    users = np.repeat([0, 1], [len(mine), len(others)])
    items = np.concatenate([mine, others])
    return from_log(users, items, np.arange(len(items)), n_items=n_items, seed=0)


def drawn(seq: Sequences, few: int, *, seed: int = 0) -> tuple[Ints, NDArray[np.float32], Ints]:
    warm = np.flatnonzero(seq.support)
    return candidates(seq, np.array([4, 5]), warm, few, np.random.default_rng(seed))


def test_every_item_with_events_competes_where_they_are_few() -> None:
    seq = walk(30)
    items, odds, found = drawn(seq, 50)
    assert sorted(items) == list(range(28))
    assert not odds.any()
    assert items[found].tolist() == [7, 8]


def test_what_follows_and_what_has_just_been_there_stand_for_themselves() -> None:
    items, odds, found = drawn(walk(1000), 100)
    recent = set(range(7 - RECENT, 9))
    assert set(items[odds == 0]) == recent
    assert items[found].tolist() == [7, 8]
    assert len(items) == len(set(items)) == 100


def test_those_drawn_stand_for_all_others_with_events() -> None:
    """The denominator is right in the mean: no item counts more than another, new ones never."""
    counted, rounds = np.zeros(40), 3000
    for seed in range(rounds):
        items, odds, _ = drawn(walk(40), 16, seed=seed)
        assert np.isclose(np.exp(odds).sum(), 38)
        counted[items] += np.exp(odds)
    assert not counted[38:].any()
    assert np.abs(counted[:38] / rounds - 1).max() < 0.1


def test_some_are_drawn_however_many_follow() -> None:
    items, odds, _ = drawn(walk(1000), 4)
    assert (len(items), np.count_nonzero(odds)) == (6, 1)


def test_a_short_log_is_read_in_small_batches_and_not_for_long() -> None:
    schedule = Schedule(steps=300, epochs=8, batch=2048, least=64)
    one = from_log([0], [1], [0], n_items=2, seed=0)
    assert schedule.length(one) == 0
    few = from_log([0] * 101, range(101), range(101), n_items=101, seed=0)
    assert (schedule.size(100), schedule.length(few)) == (64, 16)
    assert (schedule.size(16_000), schedule.size(10**6)) == (1000, 2048)
    users, items = np.divmod(np.arange(60_000), 600)
    many = from_log(users, items, items, n_items=600, seed=0)
    assert schedule.length(many) == 8 * -(-59_900 // 2048)


def test_the_rate_fades_to_the_end_however_long_a_schedule_is() -> None:
    users, items = np.divmod(np.arange(60_000), 600)
    many = from_log(users, items, items, n_items=600, seed=0)
    for steps in (50, 200):
        schedule = Schedule(steps=steps, batch=16, candidates=8)
        paces = [pace for pace, _ in reading._batches(many, 0.6, 0, schedule)]
        assert len(paces) == steps
        assert max(paces) > 0.6
        assert paces[-1] < 0.06


def test_what_a_user_has_at_any_time_is_no_wrong_answer() -> None:
    seq = from_log([0, 0, 0, 0, 1, 1], [4, 5, 4, 6, 7, 5], range(6), n_items=9, seed=0)
    those = np.array([7, 4, 8, 5, 6])
    found = np.array([0, 3, 1])  # 7, 5 and 4
    pairs = spared(limits.taken(seq), np.array([1, 0, 0]), those, found)
    absent = zip(pairs.states.tolist(), those[pairs.items], strict=True)
    assert sorted(absent) == [(0, 5), (1, 4), (1, 6), (2, 5), (2, 6)]


def test_what_is_spared_is_what_the_user_of_an_event_has() -> None:
    users, items = np.divmod(np.arange(6000), 60)
    seq = from_log(users, items % 30 + 30 * (users % 2), items, n_items=60, seed=0)
    schedule = Schedule(steps=3, batch=64, candidates=8)
    for _, batch in reading._batches(seq, 0.6, 0, schedule, limits.taken(seq)):
        assert batch.absent is not None
        found = batch.candidates[batch.next]
        events, others = batch.absent.states.numpy(), batch.candidates[batch.absent.items.numpy()]
        assert (found[events] // 30 == others // 30).all()
        assert (found[events] != others).all()
        half = np.bincount(batch.candidates // 30)[found // 30]
        assert np.bincount(events, minlength=64).tolist() == (half - 1).tolist()


def shop(again: int, *, at_once: bool = False) -> Sequences:
    """Users take 100 things, the last of which they had before, at an earlier time or at once."""
    users, times = np.divmod(np.arange(3000), 100)
    items = np.where(times >= 100 - again, times - (100 - again), times)
    return from_log(users, items, 0 * times if at_once else times, n_items=100, seed=0)


def test_users_take_things_again_where_they_do_it_often() -> None:
    assert [takes_again(shop(again)) for again in (0, 1, 2, 30)] == [False, False, True, True]


def test_what_is_told_twice_is_not_taken_again() -> None:
    assert not takes_again(shop(30, at_once=True))
    assert not takes_again(from_log([], [], [], n_items=3, seed=0))


def test_one_user_cannot_say_that_all_take_things_again() -> None:
    users, items = np.divmod(np.arange(500), 10)  # 50 users of 10 events each, and one of 1,000
    users, items = np.append(users, [50] * 1000), np.append(items, np.tile(np.arange(100), 10))
    seq = from_log(users, items, np.arange(1500), n_items=100, seed=0)
    assert not takes_again(seq)
    assert 1 - limits.taken(seq).nnz / 1500 > 0.5


def test_what_a_user_has_is_not_pushed_away_by_what_the_user_takes() -> None:
    seq = from_log([0] * 8, [0, 1, 2, 3] * 2, range(8), n_items=8, seed=0)
    event, those, found = np.array([6]), np.arange(8), np.array([2])
    absent = spared(limits.taken(seq), np.array([0]), those, found)
    odds = np.zeros(8, np.float32)
    batch = reading.Batch(*histories(seq, event, 0.9), those, odds, found, absent)
    g = torch.Generator().manual_seed(0)
    context, target = (torch.randn(8, 4, generator=g, requires_grad=True) for _ in range(2))
    read = reading.Tables(lambda items: context[items], lambda items: target[items], lambda t: t)
    reading._loss(read, batch)([4], [torch.tensor(0.5)]).backward()
    assert target.grad is not None
    assert target.grad.any(dim=1).tolist() == [False, False, True, False, True, True, True, True]


def test_only_what_may_teach_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever has all but one item could push that one down by all that they do."""
    n = limits.CAP + 200
    seq = from_log([0] * n, range(n), range(n), n_items=n + 1, seed=0)
    spares: list[reading.Batch] = []
    moved = torch.zeros(1, requires_grad=True)

    def loss(_: object, batch: reading.Batch) -> Loss:
        spares.append(batch)
        return lambda dims, temperatures: (moved * temperatures[0]).sum()

    monkeypatch.setattr(reading, "_loss", loss)
    asked = Schedule(steps=1, batch=32, candidates=n)
    read = reading.Tables(*[lambda rows: rows] * 3)
    moving = torch.optim.SGD([moved])
    list(reading.trained(read, moving, seq, [4], recency=0.9, spare=True, seed=0, schedule=asked))
    absent = spares[0].absent
    assert absent is not None
    assert spares[0].candidates[absent.items.numpy()].min() >= 200
    assert len(absent.items) == 32 * (limits.CAP - 1)
