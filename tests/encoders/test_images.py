"""Bytes to pictures: every odd file is opened by its rule or refused with its reason."""

import contextlib
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from encoders.images import Reason, RefusedImage, check, open_picture
from tests.encoders.pictures import KINDS, damaged, encoded, gradient


def pixels(data: bytes) -> np.ndarray:
    picture = open_picture(data)
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def refused(data: bytes) -> Reason:
    with pytest.raises(RefusedImage) as caught:
        check(data)
    assert str(caught.value).startswith(f"image refused ({caught.value.reason}): ")
    return caught.value.reason


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it has width x height pixels, and nearly none of their data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_accepted_format_is_read(kind: str) -> None:
    picture = gradient().quantize(255).convert("RGB")
    options = {"lossless": True} if kind == "WEBP" else {"quality": 98} if kind == "JPEG" else {}
    difference = np.abs(pixels(encoded(picture, kind, **options)) - np.asarray(picture).astype(int))
    assert difference.mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_rotated_file_equals_the_rotated_picture(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }[orientation]
    expected = turned(np.asarray(gradient()).astype(int))
    np.testing.assert_array_equal(pixels(encoded(gradient(), "PNG", exif=exif)), expected)


def test_damaged_exif_leaves_the_picture_as_it_is_stored() -> None:
    data = encoded(gradient(), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\xff garbage")
    np.testing.assert_array_equal(pixels(data), np.asarray(gradient()).astype(int))


def test_cmyk_is_read_as_the_colours_it_prints() -> None:
    red = Image.new("CMYK", (20, 20), (0, 255, 255, 0))
    assert np.abs(pixels(encoded(red, "JPEG", quality=98)) - (255, 0, 0)).max() < 12


def test_transparency_lies_over_white() -> None:
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half.paste((0, 0, 255, 255), (0, 0, 4, 8))
    read = pixels(encoded(half))
    assert (read[:, :4] == (0, 0, 255)).all()
    assert (read[:, 4:] == 255).all()


def test_a_palette_with_transparency_lies_over_white() -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 0, 128, 0])
    picture.paste(0, (0, 0, 4, 8))
    read = pixels(encoded(picture, transparency=0))
    assert (read[:, :4] == 255).all()
    assert (read[:, 4:] == (0, 128, 0)).all()


def test_a_transparent_colour_of_an_rgb_file_lies_over_white() -> None:
    read = pixels(encoded(Image.new("RGB", (8, 8), (9, 8, 7)), transparency=(9, 8, 7)))
    assert (read == 255).all()


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    read = pixels(encoded(Image.fromarray(values)))
    np.testing.assert_allclose(read[..., 0], values / 257, atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA"])
def test_grey_and_palette_become_rgb(mode: str) -> None:
    source = gradient().convert("LA" if mode == "PA" else mode)
    kind = "TIFF" if mode == "PA" else "PNG"
    expected = np.asarray(source.convert("RGB")).astype(int)
    np.testing.assert_array_equal(pixels(encoded(source, kind)), expected)


def test_an_animation_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (pixels(data) == (255, 0, 0)).all()


def test_no_bytes_are_refused_as_empty() -> None:
    assert refused(b"") is Reason.EMPTY


@pytest.mark.parametrize("data", [b"hello", b"<html><body>404</body></html>", b"\0" * 100])
def test_other_bytes_are_refused_as_no_image(data: bytes) -> None:
    assert refused(data) is Reason.NOT_AN_IMAGE


@pytest.mark.parametrize(
    "data",
    [b"<svg xmlns='x'/>", b"%PDF-1.7", b"%!PS-Adobe", b"8BPS\0\1", b"\0\0\0\x18ftypheic"],
)
def test_formats_that_are_not_read_are_called_unsupported(data: bytes) -> None:
    assert refused(data) is Reason.UNSUPPORTED


def test_float_pictures_are_called_unsupported() -> None:
    assert refused(encoded(Image.new("F", (8, 8), 0.5), "TIFF")) is Reason.UNSUPPORTED


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_file_cut_short_is_refused_as_truncated(kind: str, part: float) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    assert refused(data[: int(len(data) * part)]) is Reason.TRUNCATED


def test_a_file_of_its_first_bytes_alone_is_refused_as_truncated() -> None:
    assert refused(encoded(gradient(), "JPEG")[:5]) is Reason.TRUNCATED


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_pictures_one_pixel_wide_are_refused_as_too_small(size: tuple[int, int]) -> None:
    assert refused(encoded(Image.new("RGB", size))) is Reason.TOO_SMALL


@pytest.mark.parametrize("size", [(9_000, 9_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    assert refused(bomb(*size)) is Reason.TOO_MANY_PIXELS


def test_the_pixel_limit_is_the_callers() -> None:
    data = encoded(gradient(20, 10))
    check(data, max_pixels=200)
    with pytest.raises(RefusedImage, match="20 x 10 pixels: the limit is 199"):
        check(data, max_pixels=199)


def opened_or_refused(data: bytes) -> bool:
    """True; anything but a picture or a refusal escapes as an exception."""
    with contextlib.suppress(RefusedImage):
        return open_picture(data).mode == "RGB"
    return True


@given(st.binary(max_size=200), st.sampled_from(KINDS))
def test_garbage_behind_a_good_start_is_opened_or_refused(tail: bytes, kind: str) -> None:
    good = encoded(gradient(8, 8), kind)
    for cut in (4, 12, len(good) // 2, len(good)):
        assert opened_or_refused(good[:cut] + tail)


@given(damaged())
def test_a_damaged_file_is_opened_or_refused(data: bytes) -> None:
    assert opened_or_refused(data)


def test_a_reduced_decode_keeps_the_asked_side_and_nearly_the_picture() -> None:
    data = encoded(gradient(800, 600), "JPEG", quality=95)
    small = open_picture(data, min_side=140)
    assert small.size == (200, 150)
    full = open_picture(data).resize(small.size, Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(small).astype(int) - np.asarray(full).astype(int)).mean() < 3


def test_a_reduced_decode_never_falls_below_the_asked_side() -> None:
    data = encoded(gradient(800, 600), "JPEG")
    assert [open_picture(data, min_side=side).size for side in (75, 76, 300, 301)] == [
        (100, 75),
        (200, 150),
        (400, 300),
        (800, 600),
    ]
