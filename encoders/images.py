"""Picture files: bytes to an upright RGB picture.

Every file is either opened by a stated rule or refused with a reason. It knows no model.

Rules: the first frame of an animation; EXIF orientation applied; transparency laid over white;
16-bit grey scaled to 8; CMYK, palette and grey converted to RGB; colour profiles ignored.
"""

from enum import StrEnum
from io import BytesIO

import numpy as np
from PIL import Image

from encoders.encoder import ItemError

VERSION = 1  # part of every digest: raise it when the same bytes would give other pixels
MAX_PIXELS = 50_000_000  # what a caller may raise, up to LARGEST
LARGEST = 89_478_485  # beyond it Pillow itself objects
MIN_SIDE = 2  # one-pixel pictures are trackers and placeholders

# Pillow also opens formats that run other programs or are rarely fuzzed: only these are let in.
_MAGIC: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "WEBP": (b"RIFF",),
    "BMP": (b"BM",),
    "TIFF": (b"II*\x00", b"MM\x00*"),
}
_FORMATS = (*_MAGIC, "MPO")  # MPO is what Pillow calls a JPEG that carries further frames
# Known pictures and pages that are not read: SVG, PDF, PostScript, Photoshop, icons, JPEG XL.
_FOREIGN = (b"<svg", b"<?xml", b"%pdf", b"%!ps", b"8bps", b"\x00\x00\x01\x00", b"\xff\x0a")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


class Reason(StrEnum):
    """Why a picture is refused."""

    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"
    UNSUPPORTED = "unsupported"


class RefusedImage(ItemError):
    """A picture that is not read, with the `reason` as data."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        """Say the reason and what was found."""
        place = "" if self.row is None else f"row {self.row}: "
        return f"{place}image refused ({self.reason}): {self.detail}"


def check(data: bytes, *, max_pixels: int = MAX_PIXELS) -> None:
    """Raise RefusedImage unless `open_picture` opens these bytes. Decodes all of them."""
    open_picture(data, max_pixels=max_pixels)


def open_picture(
    data: bytes, *, min_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Return the upright RGB picture, fully decoded.

    min_side lets formats that can (JPEG) decode at 1/2, 1/4 or 1/8 as long as the shorter side
    keeps that many pixels. The size limits hold for the stored picture and are checked first.
    """
    with _opened(data) as file:
        _check_size(file.size, max_pixels)
        if min_side is not None:
            file.draft(None, (min_side, min_side))
        try:
            file.load()
            turn = _UPRIGHT.get(_orientation(file))
            picture = _rgb(file)
        except RefusedImage:
            raise
        except Exception as error:  # decoders fail in dozens of ways on damaged files
            raise RefusedImage(Reason.TRUNCATED, f"decoding stopped: {error}") from error
    return picture if turn is None else picture.transpose(turn)


def _opened(data: bytes) -> Image.Image:
    if not data:
        raise RefusedImage(Reason.EMPTY, "there are no bytes")
    known = any(data.startswith(magic) for group in _MAGIC.values() for magic in group)
    if not known:
        foreign = data[4:8] == b"ftyp" or data.lstrip()[:8].lower().startswith(_FOREIGN)
        reason = Reason.UNSUPPORTED if foreign else Reason.NOT_AN_IMAGE
        raise RefusedImage(reason, f"it starts with {data[:8]!r}: store {', '.join(_MAGIC)}")
    try:
        return Image.open(BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedImage(Reason.TOO_MANY_PIXELS, str(error)) from error
    except Exception as error:  # the first bytes are right, so the header behind them is damaged
        raise RefusedImage(Reason.TRUNCATED, f"its header cannot be read: {error}") from error


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if min(size) < MIN_SIDE:
        raise RefusedImage(
            Reason.TOO_SMALL, f"{width} x {height} pixels: each side needs {MIN_SIDE}"
        )
    limit = min(max_pixels, LARGEST)
    if width * height > limit:
        raise RefusedImage(
            Reason.TOO_MANY_PIXELS, f"{width} x {height} pixels: the limit is {limit:,}"
        )


def _orientation(file: Image.Image) -> int:
    try:
        return int(file.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the pixels: they are read as stored
        return 1


def _rgb(file: Image.Image) -> Image.Image:
    if file.mode.startswith("I"):
        return _grey16(file).convert("RGB")
    if file.has_transparency_data:
        return _over_white(file.convert("RGBA"))
    if file.mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"):
        raise RefusedImage(Reason.UNSUPPORTED, f"pixel mode {file.mode}: store 8-bit RGB")
    return file if file.mode == "RGB" else file.convert("RGB")


def _over_white(picture: Image.Image) -> Image.Image:
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return white


def _grey16(file: Image.Image) -> Image.Image:
    values = np.asarray(file)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise RefusedImage(
            Reason.UNSUPPORTED, "32-bit grey has no agreed white: store 8 or 16 bits"
        )
    return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))
