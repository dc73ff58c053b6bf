"""What all encoders share: unit rows, texts as far as they are read, refusals that travel."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from encoders.describe import NothingSaid
from encoders.encoder import (
    MAX_CHARS,
    Item,
    ItemError,
    MissingModality,
    NoDirection,
    each,
    image_of,
    text_of,
    unit_rows,
)
from encoders.feed import TooLarge
from encoders.images import Reason, RefusedImage

REFUSALS = [
    ItemError("no"),
    MissingModality("no text"),
    NoDirection(),
    TooLarge(),
    NothingSaid(),
    RefusedImage(Reason.TRUNCATED, "decoding stopped"),
]
features = arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)


@given(features)
def test_a_row_is_scaled_to_length_one_or_refused(rows: np.ndarray) -> None:
    for row, unit in zip(rows, unit_rows(rows), strict=True):
        if np.isfinite(row).all() and row.any():
            assert isinstance(unit, np.ndarray)
            assert unit.dtype == np.float32
            np.testing.assert_allclose(np.linalg.norm(unit), 1, atol=1e-5)
            np.testing.assert_allclose(np.sign(row) * np.sign(unit) >= 0, True)
        else:
            assert isinstance(unit, NoDirection)


@pytest.mark.parametrize("spoilt", [0.0, np.nan, np.inf])
def test_a_row_without_direction_leaves_the_others_as_they_are(spoilt: float) -> None:
    rows = np.array([[3, 4], [spoilt, 0], [0, -2]], np.float32)
    first, second, third = unit_rows(rows)
    np.testing.assert_allclose([first, third], [[0.6, 0.8], [0, -1]])
    assert isinstance(second, NoDirection)


def test_scaling_leaves_the_features_as_they_were() -> None:
    rows = np.array([[3, 4], [0, 0]], np.float32)
    unit_rows(rows)
    np.testing.assert_array_equal(rows, [[3, 4], [0, 0]])


def test_a_text_is_read_up_to_a_length_that_no_model_reads() -> None:
    assert text_of(Item(text="x" * (MAX_CHARS + 9))) == "x" * MAX_CHARS


@given(st.text(st.characters(), max_size=30))
def test_every_text_can_be_written_as_utf8(text: str) -> None:
    read = text_of(Item(text=text))
    assert read.encode().decode() == read
    assert [a for a, b in zip(read, text, strict=True) if a != b] == ["?"] * sum(
        "\ud800" <= character <= "\udfff" for character in text
    )


@pytest.mark.parametrize(("read", "item"), [(text_of, Item(image=b"")), (image_of, Item(text=""))])
def test_what_an_item_lacks_is_named(read, item: Item) -> None:
    with pytest.raises(MissingModality, match=r"the item has no (text|image)"):
        read(item)


def test_a_refused_item_leaves_its_error_in_its_place() -> None:
    items = [Item(text="a"), Item(), Item(text="c")]
    first, second, third = each(text_of, items)
    assert (first, third) == ("a", "c")
    assert isinstance(second, MissingModality)


def test_a_message_says_its_row_once_that_is_known() -> None:
    error = ItemError("no good")
    assert str(error) == "no good"
    error.row = 7
    assert str(error) == "row 7: no good"


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_refusal_travels_to_another_process_whole(error: ItemError) -> None:
    error.row = 3
    travelled = pickle.loads(pickle.dumps(error))
    assert type(travelled) is type(error)
    assert str(travelled) == str(error)
    assert (travelled.row, travelled.reason, travelled.lasting) == (3, error.reason, error.lasting)
