"""Picture files made on the spot."""

import io
from typing import Any

import numpy as np
from PIL import Image


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
