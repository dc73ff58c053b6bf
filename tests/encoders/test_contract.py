"""What every encoder promises."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from encoders import feed
from encoders.encoder import MAX_CHARS, Encoder, Item, ItemError, MissingModality, Outcome, Vectors
from encoders.images import RefusedImage
from tests.encoders.pictures import ODD, damaged, encoded, gradient
from tests.encoders.scripts import SAMPLES

SIZES = [(96, 64), (64, 96), (300, 40), (33, 33), (7, 200)]
TEXTS = ["", "red wine", "a dry white wine", "a bottle of red wine from the hills", "a box " * 20]
ITEMS = [
    Item(
        text=text,
        image=encoded(gradient(*size, shift=40 * i), "JPEG" if i % 2 else "PNG"),
    )
    for i, (text, size) in enumerate(zip(TEXTS, SIZES, strict=True))
]


@pytest.fixture(scope="module")
def vectors(encoder: Encoder) -> Vectors:
    """What an encoder makes of the items."""
    return feed.encode(encoder, ITEMS)


def only(encoder: Encoder, items: list[Item]) -> list[Outcome[Vectors]]:
    (outcomes,) = feed.run(encoder, [items])
    return outcomes


def test_rows_are_float32_of_the_encoders_dim_and_of_length_one(
    encoder: Encoder, vectors: Vectors
) -> None:
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(ITEMS), encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_same_items_give_the_same_bits(encoder: Encoder, vectors: Vectors) -> None:
    np.testing.assert_array_equal(feed.encode(encoder, ITEMS), vectors)


def test_a_row_depends_on_its_own_item_only(encoder: Encoder, vectors: Vectors) -> None:
    alone = np.concatenate([feed.encode(encoder, [item]) for item in ITEMS])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)


def test_rows_follow_the_order_of_the_items_and_repeat_with_them(
    encoder: Encoder, vectors: Vectors
) -> None:
    order = [3, 0, 0, 4, 2, 1, 3]
    mixed = feed.encode(encoder, [ITEMS[i] for i in order])
    np.testing.assert_allclose(mixed, vectors[order], atol=1e-5)


def test_a_forward_of_unlike_items_gives_each_its_own_row(
    encoder: Encoder, vectors: Vectors, loaded: Callable[[str], Encoder]
) -> None:
    """As on a GPU, where items are padded to fill a forward. In int8 that may flip roundings."""
    contents = [encoder.prepare(item).content for item in ITEMS]
    rows = np.stack(list(encoder.forward(encoder.collate(contents))))
    atol = 1e-2 if encoder is loaded("minilm") else 1e-5
    np.testing.assert_allclose(rows, vectors, atol=atol)


def test_different_items_give_different_rows(vectors: Vectors) -> None:
    assert (vectors @ vectors.T)[~np.eye(len(ITEMS), dtype=bool)].max() < 0.9999


def test_no_items_give_no_rows_of_the_right_width(encoder: Encoder) -> None:
    assert feed.encode(encoder, []).shape == (0, encoder.dim)


def test_an_item_without_what_the_encoder_reads_is_refused_by_its_row(encoder: Encoder) -> None:
    with pytest.raises(MissingModality, match="row 2: the item has ") as caught:
        feed.encode(encoder, [ITEMS[0], ITEMS[1], Item()])
    assert caught.value.row == 2


def test_the_feed_gives_batch_by_batch_what_encode_gives(
    encoder: Encoder, vectors: Vectors
) -> None:
    many = [row % len(ITEMS) for row in range(feed.CHUNK + 1)]
    batches = [[0, 1], [], many, [2, 3, 4]]
    fed = list(feed.run(encoder, [[ITEMS[row] for row in batch] for batch in batches]))
    assert [len(outcomes) for outcomes in fed] == [len(batch) for batch in batches]
    rows = np.stack([outcome.value for outcomes in fed for outcome in outcomes])
    np.testing.assert_allclose(rows, vectors[[0, 1, *many, 2, 3, 4]], atol=1e-5)


def test_an_item_with_one_modality_has_a_row_beside_items_with_both(joint: Encoder) -> None:
    both = ITEMS[1]
    items = [both, Item(text=both.text), Item(image=both.image), Item(text="", image=both.image)]
    vectors = feed.encode(joint, items)
    alone = np.concatenate([feed.encode(joint, [item]) for item in items])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)
    assert (vectors[:3] @ vectors[:3].T)[~np.eye(3, dtype=bool)].max() < 0.9999


def test_a_text_in_any_script_has_a_row_of_its_own_item_only(reader: Encoder) -> None:
    items = [Item(text=text) for text in SAMPLES.values()]
    vectors = feed.encode(reader, items)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    some = slice(None, None, 12)
    alone = np.concatenate([feed.encode(reader, [item]) for item in items[some]])
    np.testing.assert_allclose(vectors[some], alone, atol=1e-5)


@settings(max_examples=8)
@given(texts=st.lists(st.text(st.characters(), max_size=60), min_size=1, max_size=6))
def test_any_text_at_all_has_a_row(reader: Encoder, texts: list[str]) -> None:
    items = [Item(text=text, image=ITEMS[3].image) for text in texts]
    vectors = feed.encode(reader, items)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_control_characters_and_lone_surrogates_are_read(reader: Encoder) -> None:
    texts = ["\x00\x07\x1b[31m", "\ud800 lone", "\u202e\u200b\ufeff", "a\r\n\tb", " ", "\n"]
    vectors = feed.encode(reader, [Item(text=text) for text in texts])
    assert np.isfinite(vectors).all()


def test_a_megabyte_of_text_is_its_beginning(reader: Encoder) -> None:
    long = "wine and cheese " * 70_000
    outcome, beginning = only(reader, [Item(text=long), Item(text=long[:MAX_CHARS])])
    assert outcome.value is not None
    np.testing.assert_allclose(outcome.value, beginning.value, atol=1e-5)
    assert outcome.cut == beginning.cut > 100


def test_an_odd_file_has_the_vector_of_the_plain_picture_it_shows(viewer: Encoder) -> None:
    odd = feed.encode(viewer, [Item(image=file) for file, _ in ODD.values()])
    plain = feed.encode(viewer, [Item(image=encoded(shown)) for _, shown in ODD.values()])
    np.testing.assert_allclose(odd, plain, atol=1e-5)


def test_a_banner_has_a_row(viewer: Encoder) -> None:
    sizes = [(300, 2), (2, 300), (2, 2), (20_000, 20), (20, 20_000)]
    vectors = feed.encode(viewer, [Item(image=encoded(gradient(*size))) for size in sizes])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (300, 1), (1, 300)])
def test_a_picture_of_one_pixels_width_is_refused(viewer: Encoder, size: tuple[int, int]) -> None:
    with pytest.raises(RefusedImage, match="too_small"):
        feed.encode(viewer, [Item(image=encoded(Image.new("RGB", size)))])


def test_a_corrupt_picture_leaves_the_others_as_they_are(viewer: Encoder) -> None:
    corrupt = Item(text="wine", image=ITEMS[2].image[:90] if ITEMS[2].image else b"")
    outcomes = only(viewer, [*ITEMS[:2], corrupt, *ITEMS[2:]])
    assert isinstance(outcomes[2].refusal, RefusedImage)
    others = np.stack([each.value for each in outcomes if each.value is not None])
    np.testing.assert_allclose(others, feed.encode(viewer, ITEMS), atol=1e-5)


@settings(max_examples=10)
@given(files=st.lists(damaged(), min_size=1, max_size=4))
def test_garbage_for_pictures_is_refused_or_shown(viewer: Encoder, files: list[bytes]) -> None:
    outcomes = only(viewer, [Item(image=data) for data in files])
    assert all((each.value is None) == isinstance(each.refusal, ItemError) for each in outcomes)
