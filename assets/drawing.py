"""Pictures of the sample shop: a product's outline in its colour, patterned in its style.

Shapes are data on a grid of 100 by 100. It knows no items; equal arguments give equal bytes.
"""

import io
from functools import cache
from random import Random

from PIL import Image, ImageDraw

SIDE = 192
SCALE = 2  # drawn larger and reduced: smooth edges
QUALITY = 82

Colour = tuple[int, int, int]
Part = tuple[str, str, tuple[float, ...]]  # what to draw, in which tone, coordinates x, y, ...

# "body" carries the pattern; "dark" and "light" are shades of the colour
SHAPES: dict[str, tuple[Part, ...]] = {
    "tent": (
        ("poly", "body", (50, 18, 92, 80, 8, 80)),
        ("poly", "dark", (50, 40, 64, 80, 36, 80)),
        ("line", "dark", (50, 18, 50, 10)),
        ("line", "dark", (8, 80, 2, 86)),
        ("line", "dark", (92, 80, 98, 86)),
    ),
    "sleeping bag": (
        ("oval", "body", (30, 8, 70, 46)),
        ("poly", "body", (30, 27, 70, 27, 78, 62, 66, 92, 34, 92, 22, 62)),
        ("oval", "light", (38, 14, 62, 38)),
        ("line", "dark", (50, 38, 50, 90)),
    ),
    "camp stove": (
        ("poly", "dark", (22, 34, 78, 34, 74, 44, 26, 44)),
        ("line", "dark", (26, 44, 20, 86)),
        ("line", "dark", (74, 44, 80, 86)),
        ("oval", "body", (30, 48, 70, 92)),
        ("oval", "light", (40, 22, 60, 38)),
        ("line", "dark", (62, 70, 84, 62)),
    ),
    "lantern": (
        ("arc", "dark", (32, 4, 68, 44)),
        ("poly", "dark", (34, 26, 66, 26, 60, 16, 40, 16)),
        ("poly", "light", (34, 26, 66, 26, 66, 70, 34, 70)),
        ("oval", "body", (42, 34, 58, 66)),
        ("poly", "body", (28, 70, 72, 70, 76, 92, 24, 92)),
    ),
    "teapot": (
        ("arc", "dark", (62, 36, 96, 76)),
        ("poly", "body", (30, 60, 6, 36, 12, 32, 36, 48)),
        ("oval", "body", (22, 34, 78, 86)),
        ("poly", "dark", (36, 36, 64, 36, 58, 28, 42, 28)),
        ("oval", "dark", (46, 20, 54, 28)),
    ),
    "tea cups": (
        ("arc", "dark", (36, 36, 56, 60)),
        ("poly", "body", (8, 32, 46, 32, 40, 62, 14, 62)),
        ("arc", "dark", (76, 54, 96, 78)),
        ("poly", "body", (46, 50, 86, 50, 80, 82, 52, 82)),
        ("oval", "light", (46, 45, 86, 55)),
        ("oval", "light", (8, 28, 46, 36)),
    ),
    "tray": (
        ("oval", "dark", (4, 30, 96, 82)),
        ("oval", "body", (10, 34, 90, 76)),
        ("arc", "light", (0, 44, 14, 68)),
        ("arc", "light", (86, 44, 100, 68)),
    ),
    "tea tin": (
        ("poly", "body", (26, 30, 74, 30, 74, 88, 26, 88)),
        ("poly", "dark", (24, 16, 76, 16, 76, 30, 24, 30)),
        ("poly", "light", (34, 46, 66, 46, 66, 72, 34, 72)),
        ("oval", "dark", (44, 52, 56, 66)),
    ),
    "desk lamp": (
        ("line", "dark", (38, 86, 26, 52)),
        ("line", "dark", (26, 52, 56, 26)),
        ("poly", "body", (50, 12, 88, 40, 70, 58, 44, 34)),
        ("oval", "light", (64, 38, 88, 60)),
        ("oval", "dark", (16, 82, 60, 94)),
    ),
    "notebook": (
        ("poly", "dark", (26, 10, 80, 10, 80, 92, 26, 92)),
        ("poly", "body", (22, 8, 76, 8, 76, 90, 22, 90)),
        ("poly", "light", (36, 22, 62, 22, 62, 36, 36, 36)),
        ("line", "dark", (68, 8, 68, 90)),
    ),
    "pen pot": (
        ("line", "dark", (38, 50, 30, 8)),
        ("line", "light", (50, 50, 52, 6)),
        ("line", "dark", (60, 50, 72, 12)),
        ("poly", "body", (24, 42, 76, 42, 70, 92, 30, 92)),
        ("oval", "dark", (24, 37, 76, 47)),
    ),
    "poster": (
        ("poly", "dark", (16, 4, 84, 4, 84, 96, 16, 96)),
        ("poly", "light", (20, 8, 80, 8, 80, 92, 20, 92)),
        ("poly", "body", (28, 16, 72, 16, 72, 72, 28, 72)),
        ("line", "dark", (34, 82, 66, 82)),
    ),
    "sneakers": (
        ("poly", "body", (6, 42, 30, 40, 52, 54, 90, 62, 94, 76, 6, 76)),
        ("poly", "light", (4, 74, 96, 74, 94, 86, 6, 86)),
        ("line", "light", (36, 44, 30, 54)),
        ("line", "light", (44, 50, 38, 60)),
        ("line", "light", (52, 55, 46, 64)),
    ),
    "backpack": (
        ("arc", "dark", (38, 2, 62, 28)),
        ("oval", "body", (22, 10, 78, 50)),
        ("poly", "body", (22, 30, 78, 30, 82, 92, 18, 92)),
        ("poly", "dark", (32, 58, 68, 58, 70, 84, 30, 84)),
        ("line", "light", (32, 64, 68, 64)),
    ),
    "water bottle": (
        ("poly", "dark", (42, 4, 58, 4, 58, 18, 42, 18)),
        ("oval", "body", (32, 14, 68, 44)),
        ("poly", "body", (32, 29, 68, 29, 68, 94, 32, 94)),
        ("line", "light", (40, 36, 40, 86)),
    ),
    "cap": (
        ("oval", "body", (18, 22, 78, 90)),
        ("poly", "white", (10, 62, 90, 62, 90, 96, 10, 96)),
        ("poly", "dark", (46, 58, 96, 62, 98, 72, 50, 70)),
        ("line", "dark", (18, 62, 78, 62)),
        ("oval", "dark", (45, 19, 51, 25)),
    ),
}


def draw(shape: str, style: str, colour: Colour, *, seed: int) -> bytes:
    """Return a JPEG of one product; the seed turns its size, place and light a little."""
    random = Random(seed)
    side = SIDE * SCALE
    size = side * random.uniform(0.0074, 0.0086)
    left, top = ((side - 100 * size) * random.uniform(0.3, 0.7) for _ in "xy")
    ground = _mixed(colour, (250, 248, 244), random.uniform(0.86, 0.92))
    picture = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(picture)
    pen.ellipse(
        (left + 12 * size, top + 86 * size, left + 88 * size, top + 98 * size),
        fill=_mixed(ground, (0, 0, 0), 0.1),
    )
    tones = {
        "dark": _mixed(colour, (20, 20, 24), 0.55),
        "light": _mixed(colour, (255, 255, 255), 0.7),
        "white": ground,
    }
    for kind, tone, grid in SHAPES[shape]:
        at = [(left + x * size, top + y * size) for x, y in zip(grid[::2], grid[1::2], strict=True)]
        if tone == "body":
            mask = Image.new("1", picture.size)
            _part(ImageDraw.Draw(mask), kind, at, 1, size)
            picture.paste(_pattern(style, colour), mask=mask)
        else:
            _part(pen, kind, at, tones[tone], size)
    file = io.BytesIO()
    picture.reduce(SCALE).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _part(
    pen: ImageDraw.ImageDraw,
    kind: str,
    at: list[tuple[float, float]],
    fill: Colour | int,
    size: float,
) -> None:
    if kind == "poly":
        pen.polygon(at, fill=fill)
    elif kind == "oval":
        pen.ellipse(at, fill=fill)
    elif kind == "arc":
        pen.ellipse(at, outline=fill, width=round(3.5 * size))
    else:
        pen.line(at, fill=fill, width=round(3.5 * size))


@cache
def _pattern(style: str, colour: Colour) -> Image.Image:
    """Return a square of a colour in the pattern of a style."""
    side = SIDE * SCALE
    square = Image.new("RGB", (side, side), colour)
    PATTERNS[style](ImageDraw.Draw(square), side, _mixed(colour, (255, 255, 255), 0.45))
    return square


def _crosses(pen: ImageDraw.ImageDraw, side: int, tone: Colour) -> None:
    for row, y in enumerate(range(0, side, 26)):
        for x in range(13 * (row % 2), side, 26):
            pen.line((x - 5, y, x + 5, y), fill=tone, width=3)
            pen.line((x, y - 5, x, y + 5), fill=tone, width=3)


def _rings(pen: ImageDraw.ImageDraw, side: int, tone: Colour) -> None:
    for y in range(0, side + 1, 64):
        for x in range(0, side + 1, 64):
            for radius in (28, 14):
                box = (x - radius, y - radius, x + radius, y + radius)
                pen.ellipse(box, outline=tone, width=6)


def _leaves(pen: ImageDraw.ImageDraw, side: int, tone: Colour) -> None:
    for row, y in enumerate(range(0, side, 38)):
        for x in range(22 * (row % 2), side, 44):
            pen.polygon((x, y + 16, x + 3, y + 3, x + 18, y - 12, x + 14, y + 6), fill=tone)
            pen.polygon((x, y + 16, x - 3, y + 3, x - 14, y - 6, x - 10, y + 10), fill=tone)


def _triangles(pen: ImageDraw.ImageDraw, side: int, tone: Colour) -> None:
    for row, y in enumerate(range(0, side, 36)):
        for x in range(-20 * (row % 2), side, 40):
            pen.polygon((x, y + 36, x + 20, y, x + 40, y + 36), fill=tone)


def _waves(pen: ImageDraw.ImageDraw, side: int, tone: Colour) -> None:
    for y in range(0, side, 30):
        for x in range(0, side, 40):
            pen.arc((x, y, x + 21, y + 20), 180, 360, fill=tone, width=5)
            pen.arc((x + 20, y, x + 41, y + 20), 0, 180, fill=tone, width=5)


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    """Return a colour with a share of another in it."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


PATTERNS = {
    "Nordic": _crosses,
    "Retro": _rings,
    "Botanical": _leaves,
    "Geometric": _triangles,
    "Coastal": _waves,
}
