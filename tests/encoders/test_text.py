"""The default text tower."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.encoder import Encoder, Item

# Checked against the mean pooling of sentence-transformers 6.2 on the same weights.
GOLDEN = {
    "a bottle of red wine": [-0.016494, 0.015130, -0.101479, 0.067544, -0.039950],
    "": [-0.118838, 0.048299, -0.002548, -0.011011, 0.051951],
    "Ein Glas Weißwein 🍷": [-0.096388, 0.102575, 0.028702, 0.070880, -0.044654],
}


def test_fixed_texts_have_the_published_vectors(minilm: Encoder) -> None:
    vectors = minilm.encode([Item(text=text) for text in GOLDEN])
    np.testing.assert_allclose(vectors[:, :5], list(GOLDEN.values()), atol=1e-3)


def test_texts_of_one_meaning_are_nearer_than_others(minilm: Encoder) -> None:
    red, white, spanner = minilm.encode(
        [Item(text="red wine"), Item(text="white wine"), Item(text="a spanner")]
    )
    assert red @ white > red @ spanner + 0.2


@settings(max_examples=25)
@given(st.lists(st.text(st.characters(), max_size=60), min_size=1, max_size=6))
def test_text_of_every_script_has_a_unit_row(minilm: Encoder, texts: list[str]) -> None:
    vectors = minilm.encode([Item(text=text) for text in texts])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    "text", ["\x00\x07\x1b[31m", "\ud800 lone", "\u202e\u200b\ufeff", "a\r\n\tb"]
)
def test_control_characters_and_lone_surrogates_are_encoded(minilm: Encoder, text: str) -> None:
    assert np.isfinite(minilm.encode([Item(text=text)])).all()


def test_a_megabyte_of_text_counts_as_its_beginning(minilm: Encoder) -> None:
    long = "wine and cheese " * 70_000
    vectors = minilm.encode([Item(text=long), Item(text=long[:8_000])])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_long_and_short_texts_share_a_batch(minilm: Encoder) -> None:
    texts = ["wine " * n for n in (300, 1, 40, 7, 200, 1, 90)]
    together = minilm.encode([Item(text=text) for text in texts])
    alone = np.concatenate([minilm.encode([Item(text=text)]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
