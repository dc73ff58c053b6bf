"""Contents that lack a modality, and items that the same users took."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from alignment.cold import held_out
from alignment.interactions import from_log, playing_cold
from alignment.whiten import Encoded
from benchmarks.modalities import alone, half, lacking, recall_together, together
from tests.alignment.world import content_of


def test_a_modality_alone_and_one_that_some_lack() -> None:
    rows, has = np.ones((4, 3), np.float32), np.array([True, True, True, False])
    content = content_of(4, text=Encoded(rows, has), image=Encoded(rows, ~has))
    image = alone(content, "image")
    assert not image.text.has.any()
    np.testing.assert_array_equal(image.image.has, ~has)
    fewer = lacking(content, "text", np.array([True, False, False, True]))
    assert fewer.text.has.tolist() == [False, True, True, False]
    np.testing.assert_array_equal(fewer.image.has, ~has)


def test_half_of_the_items_lack_it_by_a_draw_apart() -> None:
    lab: Any = SimpleNamespace(seeds=(3,), shop=SimpleNamespace(content=range(10_000)))
    gone = half(lab)
    for some in (np.ones(10_000, bool), playing_cold(10_000, seed=3), held_out(10_000, seed=3)):
        assert abs(gone[some].mean() - 0.5) < 0.05


def test_items_that_the_same_users_took_are_wanted_beside_each_other() -> None:
    users, items = np.divmod(np.arange(12), 3)  # four users take 0, 1, 2
    seq = from_log([*users, 8, 9], [*items, 3, 0], range(14), n_items=4, seed=0)
    wanted = together(seq, np.array([0, 1, 2, 3]), least=3)
    assert [row.tolist() for row in wanted] == [[1, 2], [2, 0], [1, 0], []]
    assert [row.tolist() for row in together(seq, np.array([0, 1]), least=5)] == [[], []]
    rows = np.array([[1, 0], [1, 0.1], [0, 1], [0.9, 0]], np.float32)
    assert recall_together(rows, wanted, k=1).tolist() == [0.5, 0.5, 0.5]
    assert recall_together(rows, wanted, k=3).tolist() == [1, 1, 1]
