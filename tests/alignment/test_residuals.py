"""Residuals on planted logs: what follows what is found, and nothing else is moved."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from alignment import limits, reading
from alignment.consumer import by_cosine, figures, rank, trial
from alignment.fuse import Dial, Residuals, fused
from alignment.interactions import Ints, Sequences, from_log, leave_last_out
from alignment.reading import Schedule
from alignment.residuals import train
from matryoshka.prefix import Vectors, unit

N, DIMS = 40, (8, 16)
QUICK = Schedule(steps=60, batch=256, candidates=30, rate=1e-2)
LONGER = replace(QUICK, steps=200, epochs=50)


def cycle(n_users: int = 300, *, seed: int = 0) -> Sequences:
    """After item i comes i + 7; the last five items are never seen."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, N - 5, n_users)
    rows = [(u, (s + 7 * t) % (N - 5), t) for u, s in enumerate(start) for t in range(6)]
    users, items, times = zip(*rows, strict=True)
    return from_log(users, items, times, n_items=N, seed=0)


@pytest.fixture(scope="module")
def rows() -> Vectors:
    """Rows that say nothing about the log."""
    return unit(np.random.default_rng(1).standard_normal((N, 15)).astype(np.float32))


def learnt(rows: Vectors, seq: Sequences, **options: object) -> Residuals:
    given = {"recency": 0.6, "dial": Dial(), "seed": 0, "schedule": QUICK} | options
    return train(rows, rows, seq, DIMS, **given)  # type: ignore[arg-type]


def recall(rows: Vectors, seq: Sequences, found: Residuals | None, dim: int) -> float:
    split = leave_last_out(seq)
    roles = fused(rows, rows, split.train.support, Dial(), found)
    return figures(rank(by_cosine(*roles, dim=dim), trial(split, on="test")).unmasked)["R@10"]


@pytest.mark.parametrize("dim", DIMS)
def test_what_follows_is_found_at_every_prefix(rows: Vectors, dim: int) -> None:
    seq = cycle()
    found = learnt(rows, leave_last_out(seq).train, dial=Dial(n0=1.0), schedule=LONGER)
    assert recall(rows, seq, None, dim) < 0.5
    assert recall(rows, seq, found, dim) > 0.95


def test_items_without_events_are_left_alone(rows: Vectors) -> None:
    found = learnt(rows, cycle())
    assert not found.context[-5:].any()
    assert not found.target[-5:].any()
    assert found.context[:-5].any(axis=1).all()


def test_no_residual_is_longer_than_its_bound(rows: Vectors) -> None:
    for bound in (0.1, 0.5):
        found = learnt(rows, cycle(), dial=Dial(bound=bound))
        longest = np.linalg.norm(found.target, axis=1).max()
        assert 0.5 * bound < longest <= bound * 1.001


def test_little_evidence_moves_an_item_little(rows: Vectors) -> None:
    """One user saw item 38 once; all others are seen often."""
    seq = cycle()
    items = np.append(seq.items, [0, 38]).astype(np.int32)
    more = Sequences(
        np.append(seq.indptr, len(items)), items, np.append(seq.times, [0, 1]), seq.n_items
    )
    found = learnt(rows, more)
    lengths = np.linalg.norm(found.target, axis=1)
    assert 0 < lengths[38] < 0.25 * np.median(lengths[:35])


def test_the_same_log_gives_the_same_residuals(rows: Vectors) -> None:
    one, two = learnt(rows, cycle()), learnt(rows, cycle())
    np.testing.assert_array_equal(one.context, two.context)
    np.testing.assert_array_equal(one.target, two.target)


def test_residuals_survive_being_stored_at_half_the_width(rows: Vectors) -> None:
    found = learnt(rows, cycle())
    np.testing.assert_array_equal(found.target, found.target.astype(np.float16))


@pytest.mark.parametrize("lists", [[], [[3]], [[1], [2], [2]]])
def test_a_log_in_which_nothing_follows_adds_nothing(rows: Vectors, lists: list[list[int]]) -> None:
    triples = [(u, i, t) for u, items in enumerate(lists) for t, i in enumerate(items)]
    users, items, times = zip(*triples, strict=True) if triples else ((), (), ())
    seq = from_log(users, items, times, n_items=N, seed=0)
    assert not train(rows, rows, seq, DIMS, recency=0.6, dial=Dial(), seed=0).context.any()


def test_a_pair_that_one_user_repeats_does_not_win(rows: Vectors, monkeypatch) -> None:
    """Item 10 follows item 3 for everybody, item 20 ten thousand times for one user."""
    seq = with_attacker(cycle(), 10_000)

    def first() -> float:
        context, target = fused(rows, rows, seq.support, Dial(), learnt(rows, seq, schedule=LONGER))
        return float(context[3] @ target[20] - context[3] @ target[10])

    assert first() < -0.1
    monkeypatch.setattr(limits, "PER_ITEM", 10_000)
    monkeypatch.setattr(limits, "CAP", 20_000)
    assert first() > 0


def with_attacker(seq: Sequences, times: int) -> Sequences:
    """One more user goes from item 3 to item 20, so many times, newest last."""
    items = np.append(seq.items, np.tile([3, 20], times)).astype(np.int32)
    stamps = np.append(seq.times, np.arange(2 * times))
    return Sequences(np.append(seq.indptr, len(items)), items, stamps, seq.n_items)


def skewed(n_users: int = 4000, heads: int = 20, tails: int = 180) -> Sequences:
    """After any of the heads comes a tail by Zipf's law: what is popular is all there is to learn.

    Items are the heads, then the tails.
    """
    rng, odds = np.random.default_rng(0), 1 / np.arange(1, tails + 1)
    followed = heads + rng.choice(tails, n_users, p=odds / odds.sum())
    items = np.stack([rng.integers(0, heads, n_users), followed], axis=1).ravel()
    users, times = np.divmod(np.arange(2 * n_users), 2)
    return from_log(users, items, times, n_items=heads + tails, seed=0)


def test_what_is_popular_is_found_as_easily_when_few_compete(monkeypatch) -> None:
    """What is drawn for the others stands for them; without that half of the skew is lost."""
    seq = skewed()
    rows = unit(np.random.default_rng(1).standard_normal((seq.n_items, 15)).astype(np.float32))
    asked = Schedule(steps=300, epochs=200, batch=64, least=16, rate=1e-2)

    def ahead(few: int) -> float:
        """How much higher the twenty most popular tails score than the rarer half."""
        schedule, dial = replace(asked, candidates=few), Dial(n0=1.0)
        found = learnt(rows, seq, dial=dial, schedule=schedule)
        context, target = fused(rows, rows, seq.support, Dial(), found)
        scores, events = (context[:20] @ target.T).mean(axis=0)[20:], seq.support[20:]
        popular = events >= np.sort(events)[-20]
        return float(scores[popular].mean() - scores[events <= np.median(events)].mean())

    whole = ahead(seq.n_items)
    assert whole > 0.25
    assert ahead(24) == pytest.approx(whole, rel=0.15)
    honest = reading.candidates

    def level(*asked: object) -> tuple[Ints, NDArray[np.float32], Ints]:
        items, odds, found = honest(*asked)  # type: ignore[arg-type]
        return items, np.zeros_like(odds), found

    monkeypatch.setattr(reading, "candidates", level)
    assert ahead(24) < 0.7 * whole
