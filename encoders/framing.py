"""Pictures to the squares that a model reads. It knows proportions and filters, not models."""

from dataclasses import dataclass
from math import floor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Mode = Literal["shortest", "squash", "longest"]
Resample = Literal["bicubic", "bilinear"]
VERSION = 2  # part of every digest: raise it when the same picture would give other squares
_LONGEST = 4  # times the shorter side; of longer pictures only so much of the middle is scaled


@dataclass(frozen=True, slots=True)
class Framing:
    """How a picture becomes uint8 [size, size, 3], and what range the model wants it in.

    A picture is scaled to `resize` - shortest: its shorter side; longest: its longer side; squash:
    both, whatever the proportions - and a square of `size` is cut out of the middle; what lies
    outside of the picture gets the colour `fill`. Filters are Pillow's, with antialiasing.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int
    mode: Mode = "shortest"
    resample: Resample = "bicubic"
    fill: tuple[int, ...] = (0, 0, 0)

    @property
    def min_side(self) -> int:
        """The shorter side down to which a file may be decoded at a reduced scale.

        Twice what is read, so that the careful filter does the last halving.
        """
        return 2 * self.resize

    @classmethod
    def keeping(cls, share: float, size: int, **rest: Any) -> "Framing":
        """Return the framing that keeps this share of the shorter side, as timm writes it down."""
        return cls(size=size, resize=floor(size / share), **rest)


def frame(picture: Image.Image, framing: Framing) -> NDArray[np.uint8]:
    """Cut and scale an RGB picture to uint8 [size, size, 3], perhaps a view of more."""
    if framing.mode == "shortest":
        picture = _without_ends(picture)
    return _middle(_scaled(picture, _target(picture.size, framing), framing), framing)


def _without_ends(picture: Image.Image) -> Image.Image:
    """Cut a banner to its middle: one of 2 x 10,000 pixels would be scaled to a gigabyte."""
    short = min(picture.size)
    box = [0, 0, *picture.size]
    for axis, length in enumerate(picture.size):
        spare = (length - _LONGEST * short) // 2
        if spare > 0:
            box[axis], box[axis + 2] = spare, length - spare
            return picture.crop((box[0], box[1], box[2], box[3]))
    return picture


def _target(size: tuple[int, int], framing: Framing) -> tuple[int, int]:
    """Return width and height to scale to, rounded as torchvision and timm do."""
    if framing.mode == "squash":
        return framing.resize, framing.resize
    if framing.mode == "longest":
        scale = framing.resize / max(size)
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    short = min(size)
    return int(framing.resize * size[0] / short), int(framing.resize * size[1] / short)


def _middle(scaled: NDArray[np.uint8], framing: Framing) -> NDArray[np.uint8]:
    """Cut the square out of the middle, or lay the picture into the middle of one."""
    for axis in (0, 1):
        spare = scaled.shape[axis] - framing.size
        if spare > 0:
            first = round(spare / 2)
            cut = slice(first, first + framing.size)
            scaled = scaled[cut] if axis == 0 else scaled[:, cut]
    if scaled.shape[:2] == (framing.size, framing.size):
        return scaled  # whoever stacks squares copies them anyway
    square = np.full((framing.size, framing.size, 3), framing.fill, np.uint8)
    height, width = scaled.shape[:2]
    top, left = (framing.size - height) // 2, (framing.size - width) // 2
    square[top : top + height, left : left + width] = scaled
    return square


def _scaled(picture: Image.Image, size: tuple[int, int], framing: Framing) -> NDArray[np.uint8]:
    """Resize to (width, height): Pillow's filters in torch's vector code, at half the time."""
    import torch  # 1.6 s to import, and who only checks files needs none of it
    from torch.nn.functional import interpolate

    if picture.size == size:
        return np.asarray(picture)
    stored = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    scaled = interpolate(stored, size=size[::-1], mode=framing.resample, antialias=True)
    return scaled[0].permute(1, 2, 0).numpy()
