"""What ids say of an order, on logs that can be looked through."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alignment.interactions import from_log, leave_last_out
from benchmarks.order import ascending_share, descending_last_pair, id_order


def test_ids_that_hide_an_order_are_ranked_by_it(tmp_path: Path):
    table = pa.table({"item_id": ["1", "2", "3"], "asin": ["B9", "A1", "B2"]})
    pq.write_table(table, tmp_path / "items.parquet")
    found = id_order(tmp_path, pa.array(["3", "1", "2"]))
    assert found is not None
    assert found.tolist() == [1, 2, 0]
    pq.write_table(table.select(["item_id"]), tmp_path / "items.parquet")
    assert id_order(tmp_path, pa.array(["3"])) is None


def test_the_share_of_ascending_neighbours_is_that_of_a_count() -> None:
    seq = from_log([0, 0, 0, 0, 1, 1], [2, 0, 1, 1, 2, 1], range(6), n_items=3, seed=0)
    assert ascending_share(seq, np.array([0, 1, 2])) == 1 / 3  # down, up, level; down
    assert ascending_share(seq, np.array([2, 1, 0])) == 2 / 3
    assert ascending_share(seq, np.array([7, 7, 7])) == 0.5


def test_the_last_pair_is_the_last_history_item_and_the_target() -> None:
    seq = from_log([0, 0, 0, 1, 1, 1, 2], [0, 2, 1, 0, 1, 2, 2], range(7), n_items=3, seed=0)
    split = leave_last_out(seq)
    assert descending_last_pair(split, np.array([0, 1, 2])).tolist() == [True, False]
    assert descending_last_pair(split, np.array([2, 1, 0])).tolist() == [False, True]
