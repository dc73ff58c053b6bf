"""The benchmark's splits by time on logs that can be looked through."""

import numpy as np

from alignment.consumer import trial
from alignment.interactions import Sequences, from_log
from alignment.whiten import Content, Encoded
from benchmarks.times import among_first, at_one_moment, has_times, nights


def log(rows: list[tuple[int, int, int]], n: int) -> Sequences:
    users, items, times = zip(*rows, strict=True)
    return from_log(users, items, times, n_items=n, seed=0)


def test_places_in_a_history_are_no_times() -> None:
    places = [(user, item, item) for user in range(3) for item in range(4)]
    assert not has_times(log(places, 4))
    assert has_times(log([(user, item, 10 * user + item) for user, item, _ in places], 4))


def test_nothing_after_the_moment_is_learnt_from() -> None:
    steady = [(0, item, item) for item in range(9)]
    late = [(1, 9, 100), (1, 8, 101)]
    split = at_one_moment(log([*steady, (0, 10, 200), *late], 11))
    assert split.users.tolist() == [0]
    assert split.train.items.tolist() == [*range(8), 9]
    assert split.validation.tolist() == [8]
    assert split.test.tolist() == [10]


def shop(rows: list[tuple[int, int, int]], n: int) -> tuple[Content, Sequences]:
    vectors = np.arange(n, dtype=np.float32)[:, None]
    text = Encoded(vectors, np.ones(n, bool))
    return Content(text, Encoded.none(n), Encoded.none(n)), log(rows, n)


def test_items_keep_their_row_while_the_catalogue_grows() -> None:
    """Item 19 is taken first and item 0 last; item 20 never."""
    content, seq = shop([(t % 4, 19 - t, t) for t in range(20)], 21)
    found = list(nights(content, seq))
    sizes = [len(night.content) for night in found]
    assert sizes == sorted(sizes)
    assert sizes[0] == 15
    assert sizes[-1] == 21
    whole = found[-1].content.text.vectors[:, 0]
    assert whole[:3].tolist() == [19, 18, 17]
    assert whole[-1] == 20
    for night in found:
        assert night.split.train.n_items == len(night.content)
        np.testing.assert_array_equal(night.content.text.vectors[:, 0], whole[: len(night.content)])


def test_a_night_holds_what_happened_so_far() -> None:
    content, seq = shop([(t % 4, t, t) for t in range(20)], 20)
    first, *_, last = nights(content, seq)
    assert len(first.split.train.items) + 2 * len(first.split.users) == 15
    assert len(last.split.train.items) + 2 * len(last.split.users) == 20


def test_only_users_and_items_of_then_are_compared() -> None:
    *_, last = nights(*shop([(t % 4, t, t) for t in range(20)], 20))
    cases = trial(last.split, on="test")
    old = among_first(cases, 18)
    assert len(cases) == 4
    assert sorted(old.targets.tolist()) == [16, 17]
    assert old.history.shape == (2, 18)
