"""Equal timestamps: an order that never changes, and that says nothing about the items."""

import numpy as np
import pyarrow as pa

from assets.sequences import hashes, mixed


def orders(users: int, items: int) -> np.ndarray:
    """The place of every item in a basket of all items, for every user: [users, items]."""
    one = hashes(pa.array([f"u{n}" for n in range(users)]), 0)
    two = hashes(pa.array([f"i{n}" for n in range(items)]), 1)
    return np.argsort(np.argsort(mixed(one[:, None], two[None, :]), axis=1), axis=1)


def test_two_items_of_a_basket_are_neighbours_no_more_often_than_by_chance() -> None:
    places = orders(2000, 20)
    beside = np.abs(places[:, :, None] - places[:, None, :]) == 1
    share = beside.mean(axis=0)[~np.eye(20, dtype=bool)]
    assert abs(share.mean() - 0.1) < 1e-9  # 19 of 190 pairs
    assert share.max() < 0.1 + 5 * np.sqrt(0.1 * 0.9 / 2000)


def test_either_item_of_a_pair_comes_first_equally_often() -> None:
    places = orders(2000, 20)
    first = (places[:, :, None] < places[:, None, :]).mean(axis=0)[~np.eye(20, dtype=bool)]
    assert np.abs(first - 0.5).max() < 5 * np.sqrt(0.25 / 2000)


def test_more_users_and_items_leave_the_order_of_the_others_alone() -> None:
    few, many = orders(10, 12), orders(30, 40)[:10, :12]
    assert (np.argsort(many, axis=1) == np.argsort(few, axis=1)).all()
