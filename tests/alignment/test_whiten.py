"""Whitening and the content block, with and without modalities."""

import numpy as np
import pytest

from alignment.whiten import (
    MODALITIES,
    Content,
    ContentBlock,
    Encoded,
    Shares,
    content_block,
    whitening,
)
from matryoshka.prefix import unit
from tests.alignment.world import content_of


def table(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return unit((rng.standard_normal((n, d)) * np.linspace(2, 0.1, d) + 1).astype(np.float32))


def fitted(content: Content, *, weight: float = 0.3, width: int = 12) -> ContentBlock:
    found = zip(MODALITIES, content.parts, strict=True)
    whitenings = {name: whitening(part.vectors[part.has]) for name, part in found}
    shares = Shares(text=1 - weight, image=weight, multimodal=0.5)
    return content_block(content, whitenings, shares=shares, width=width)


def block_of(content: Content) -> np.ndarray:
    return fitted(content)(content)


def pair(n: int = 80) -> Content:
    """Pictures that are a linear function of texts."""
    every = np.ones(n, bool)
    text = table(n, 10)
    image = unit(text @ np.random.default_rng(1).standard_normal((10, 14)).astype(np.float32))
    return content_of(n, text=Encoded(text, every), image=Encoded(image, every))


def test_directions_are_orthogonal_and_the_strongest_come_first() -> None:
    white = whitening(table(300, 8))
    np.testing.assert_allclose(white.directions.T @ white.directions, np.eye(8), atol=1e-5)
    assert (np.diff(white.variance) <= 0).all()


def test_full_whitening_makes_every_direction_equally_strong() -> None:
    rows = table(500, 6)
    white = whitening(rows)
    flat = (rows - white.mean) @ white.directions * white.variance**-0.5
    np.testing.assert_allclose(np.cov(flat.T, bias=True), np.eye(6), atol=1e-3)


def test_a_missing_picture_is_predicted_from_the_text() -> None:
    whole = pair()
    has = np.arange(80) % 2 == 0
    image = np.where(has[:, None], whole.image.vectors, 0)
    part = content_of(80, text=whole.text, image=Encoded(image, has))
    block = fitted(part)
    agreement = np.sum(block(whole) * block(part), axis=1)
    assert agreement[~has].min() > 0.9


def test_rows_behind_an_unset_bit_are_not_read() -> None:
    whole = pair()
    has = np.arange(80) % 2 == 0
    nonsense = np.where(has[:, None], whole.image.vectors, 1e6).astype(np.float32)
    clean, dirty = (
        block_of(content_of(80, text=whole.text, image=Encoded(image, has)))
        for image in (whole.image.vectors, nonsense)
    )
    np.testing.assert_array_equal(clean, dirty)


@pytest.mark.parametrize("has_text", [True, False])
@pytest.mark.parametrize("has_image", [True, False])
@pytest.mark.parametrize("has_multimodal", [True, False])
def test_rows_are_unit_whatever_is_missing(
    has_text: bool, has_image: bool, has_multimodal: bool
) -> None:
    whole, bits = pair(), np.ones(80, bool)
    content = Content(
        Encoded(whole.text.vectors, bits & has_text),
        Encoded(whole.image.vectors, bits & has_image),
        Encoded(whole.image.vectors, bits & has_multimodal),
    )
    block = fitted(content)
    rows = block(content)
    assert rows.any(axis=1).tolist() == [has_text or has_image or has_multimodal] * 80
    np.testing.assert_allclose(np.linalg.norm(block.shown(rows), axis=1), 1, atol=1e-5)


def test_an_item_with_none_is_the_mean_of_the_others() -> None:
    known = np.arange(80) > 0
    parts = [Encoded(part.vectors, part.has & known) for part in pair().parts]
    content = Content(*parts)
    block = fitted(content)
    rows = block(content)
    assert not rows[0].any()
    shown = block.shown(rows)
    np.testing.assert_array_equal(shown[1:], rows[1:])
    np.testing.assert_allclose(shown[0], unit(rows.sum(axis=0, keepdims=True))[0], atol=1e-5)


def test_shares_of_modalities_that_nobody_has_count_for_nothing() -> None:
    whole = pair()
    shares = fitted(whole, weight=0.25).shares
    assert (shares.text, shares.image, shares.multimodal) == (0.75, 0.25, 0)
    alone = fitted(content_of(80, image=whole.image), weight=0.0).shares
    assert (alone.text, alone.image, alone.multimodal) == (0, 1, 0)


def test_a_row_depends_on_its_own_item_only() -> None:
    whole = pair()
    block = fitted(whole)
    first = Content(*(Encoded(part.vectors[:1], part.has[:1]) for part in whole.parts))
    np.testing.assert_allclose(block(first), block(whole)[:1], atol=1e-6)


def test_parts_of_different_length_are_refused() -> None:
    part = Encoded(np.zeros((2, 3), np.float32), np.ones(3, bool))
    with pytest.raises(ValueError, match="as long"):
        Content(part, Encoded.none(2), Encoded.none(2))
