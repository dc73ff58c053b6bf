"""What every encoder promises."""

import numpy as np
import pytest

from encoders.encoder import Encoder, Item, MissingModality
from encoders.feed import CHUNK, encode_batches
from tests.encoders.pictures import encoded, gradient

SIZES = [(96, 64), (64, 96), (300, 40), (33, 33), (7, 200)]
TEXTS = ["", "red wine", "a dry white wine", "a bottle of red wine from the hills", "a box " * 20]
ITEMS = [
    Item(
        text=text,
        image=encoded(gradient(*size, shift=40 * i), "JPEG" if i % 2 else "PNG"),
    )
    for i, (text, size) in enumerate(zip(TEXTS, SIZES, strict=True))
]


def test_rows_are_float32_of_the_encoders_dim_and_of_length_one(encoder: Encoder) -> None:
    vectors = encoder.encode(ITEMS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(ITEMS), encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_same_items_give_the_same_bits(encoder: Encoder) -> None:
    np.testing.assert_array_equal(encoder.encode(ITEMS), encoder.encode(ITEMS))


def test_a_row_depends_on_its_own_item_only(encoder: Encoder) -> None:
    alone = np.concatenate([encoder.encode([item]) for item in ITEMS])
    np.testing.assert_allclose(encoder.encode(ITEMS), alone, atol=1e-5)


def test_rows_follow_the_order_of_the_items_and_repeat_with_them(encoder: Encoder) -> None:
    order = [3, 0, 0, 4, 2, 1, 3]
    mixed = encoder.encode([ITEMS[i] for i in order])
    np.testing.assert_allclose(mixed, encoder.encode(ITEMS)[order], atol=1e-5)


def test_different_items_give_different_rows(encoder: Encoder) -> None:
    products = encoder.encode(ITEMS) @ encoder.encode(ITEMS).T
    assert products[~np.eye(len(ITEMS), dtype=bool)].max() < 0.9999


def test_no_items_give_no_rows_of_the_right_width(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_an_item_without_what_the_encoder_reads_is_refused_by_its_row(encoder: Encoder) -> None:
    with pytest.raises(MissingModality, match="row 2: the item has no") as caught:
        encoder.encode([ITEMS[0], ITEMS[1], Item()])
    assert caught.value.row == 2


def test_the_feed_gives_what_encode_gives_batch_by_batch(encoder: Encoder) -> None:
    many = (ITEMS * (CHUNK // len(ITEMS) + 2))[: CHUNK + 3]
    batches = [ITEMS[:2], [], many, ITEMS[2:]]
    fed = list(encode_batches(encoder, batches))
    expected = encoder.encode(ITEMS)
    assert [len(vectors) for vectors in fed] == [2, 0, CHUNK + 3, 3]
    np.testing.assert_allclose(fed[0], expected[:2], atol=1e-5)
    np.testing.assert_allclose(fed[2], np.resize(expected, fed[2].shape), atol=1e-5)
    np.testing.assert_allclose(fed[3], expected[2:], atol=1e-5)
