"""Logs as sequences and splits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.interactions import (
    Sequences,
    from_log,
    leave_last_out,
    playing_cold,
    playing_new,
)

events = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 9), st.integers(0, 5)), min_size=0, max_size=60
)


def sequences(log: list[tuple[int, int, int]], seed: int = 0) -> Sequences:
    users, items, times = zip(*log, strict=True) if log else ((), (), ())
    return from_log(users, items, times, n_items=10, seed=seed)


@given(events)
def test_every_event_is_kept_in_the_order_of_its_users_time(log: list) -> None:
    seq = sequences(log)
    for user in range(seq.n_users):
        rows = slice(seq.indptr[user], seq.indptr[user + 1])
        mine = sorted((t, i) for u, i, t in log if u == user)
        assert (np.diff(seq.times[rows]) >= 0).all()
        assert sorted(zip(seq.times[rows], seq.items[rows], strict=True)) == mine


def test_equal_times_are_shuffled_by_the_seed() -> None:
    log = [(0, i, 7) for i in range(10)]
    first, again, other = (sequences(log, seed).items.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first != sorted(first)


@given(events)
def test_the_split_takes_the_last_two_events_of_users_with_three(log: list) -> None:
    seq = sequences(log)
    split = leave_last_out(seq)
    assert split.train.n_users == seq.n_users
    assert split.users.tolist() == [u for u in range(seq.n_users) if seq.lengths[u] >= 3]
    for place, user in enumerate(split.users):
        whole = seq.items[seq.indptr[user] : seq.indptr[user + 1]].tolist()
        kept = split.train.items[split.train.indptr[user] : split.train.indptr[user + 1]].tolist()
        assert [*kept, split.validation[place], split.test[place]] == whole


def test_items_outside_the_catalogue_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 0\.\.9"):
        sequences([(0, 10, 0)])


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="equal lengths"):
        from_log([0], [1, 2], [0], n_items=3, seed=0)


@pytest.mark.parametrize(
    ("unknown", "new"), [(0, 0.1), (0.06, 0.1), (0.1, 0.1), (0.4, 0.4), (1, 1)]
)
def test_a_tenth_is_new_where_fewer_have_no_events(unknown: float, new: float) -> None:
    support = (np.random.default_rng(1).random(20_000) >= unknown).astype(np.int32)
    playing = playing_new(support, seed=3)
    assert not playing[support == 0].any()
    assert not playing[~playing_cold(20_000, seed=3)].any()
    assert np.mean(playing | (support == 0)) == pytest.approx(max(0.1, unknown), abs=0.01)
