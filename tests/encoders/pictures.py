"""Picture files made on the spot."""

import io
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

KINDS = ["PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG"]


def gradient(width: int = 96, height: int = 64, *, shift: int = 0) -> Image.Image:
    """A smooth RGB picture without any symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (
        x * 255 // max(width - 1, 1),
        y * 255 // max(height - 1, 1),
        (x + 2 * y + shift) % 256,
    )
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The picture as a file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    return exif


def _deep_grey() -> Image.Image:
    values = np.asarray(gradient().convert("L")).astype(np.uint16)
    return Image.fromarray(values << 8 | 0x7F)


def _half_clear() -> Image.Image:
    picture = gradient().convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 48, 64))
    return picture


def _half_white() -> Image.Image:
    picture = gradient()
    picture.paste("white", (0, 0, 48, 64))
    return picture


_PALETTE = gradient().quantize(200)
_PRINT = gradient().convert("CMYK")
ODD: dict[str, tuple[bytes, Image.Image]] = {  # a file, and what it shows
    "palette": (encoded(_PALETTE), _PALETTE.convert("RGB")),
    "cmyk": (encoded(_PRINT, "TIFF"), _PRINT.convert("RGB")),
    "grey": (encoded(gradient().convert("L")), gradient().convert("L").convert("RGB")),
    "16 bits": (encoded(_deep_grey()), gradient().convert("L").convert("RGB")),
    "transparency": (encoded(_half_clear()), _half_white()),
    "turned": (
        encoded(gradient(), exif=_turned()),
        gradient().transpose(Image.Transpose.ROTATE_270),
    ),
    "black and white": (
        encoded(gradient().convert("1")),
        gradient().convert("1").convert("RGB"),
    ),
}


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Garbage: any bytes, a good beginning before any bytes, or a good file with some changed."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    good = bytearray(encoded(gradient(24, 16), draw(st.sampled_from(KINDS))))
    if draw(st.booleans()):
        return bytes(good[: draw(st.integers(0, len(good)))]) + draw(st.binary(max_size=200))
    for _ in range(draw(st.integers(1, 8))):
        good[draw(st.integers(4, len(good) - 1))] = draw(st.integers(0, 255))
    return bytes(good)
