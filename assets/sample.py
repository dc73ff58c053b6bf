"""The generated shop: a catalogue with drawn pictures, written attributes and planted tastes.

Everybody in it has a taste, a style in a family of colours, and buys along chains: a tent, then a
sleeping bag, then a stove. So the right neighbours of an item are known. Some rows are bad on
purpose. It knows the catalogue format; equal arguments give equal bytes.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from assets.drawing import Colour, draw

DAY = 86_400
START = 1_735_689_600  # 2025-01-01
YEAR = 365 * DAY
NO_IMAGE, NO_TEXT, NEVER_TOUCHED = 0.08, 0.05, 0.06
PLANTED = "planted.json"

# What is bought after what: along a row, then from the top of the next row.
CHAINS = (
    ("tent", "sleeping bag", "camp stove", "lantern"),
    ("sneakers", "backpack", "water bottle", "cap"),
    ("teapot", "tea cups", "tray", "tea tin"),
    ("desk lamp", "notebook", "pen pot", "poster"),
)
DEPARTMENTS = ("Outdoor", "City", "Tea", "Desk")
MATERIALS: dict[str, tuple[str, ...]] = {
    "tent": ("ripstop nylon", "cotton canvas"),
    "sleeping bag": ("recycled down", "brushed microfibre"),
    "camp stove": ("stainless steel", "anodised aluminium"),
    "lantern": ("powder-coated steel", "glass and brass"),
    "sneakers": ("suede", "knitted mesh", "canvas"),
    "backpack": ("waxed cotton", "recycled polyester"),
    "water bottle": ("stainless steel", "borosilicate glass"),
    "cap": ("cotton twill", "corduroy"),
    "teapot": ("stoneware", "porcelain", "cast iron"),
    "tea cups": ("stoneware", "porcelain"),
    "tray": ("birch plywood", "bamboo"),
    "tea tin": ("tinplate", "lacquered steel"),
    "desk lamp": ("powder-coated steel", "ash wood"),
    "notebook": ("stone paper", "linen-bound paper"),
    "pen pot": ("concrete", "stoneware"),
    "poster": ("matte cotton paper", "heavy art print paper"),
}
PRICES = {
    "tent": 190, "sleeping bag": 110, "camp stove": 65, "lantern": 45, "sneakers": 95,
    "backpack": 85, "water bottle": 28, "cap": 25, "teapot": 48, "tea cups": 30, "tray": 34,
    "tea tin": 16, "desk lamp": 79, "notebook": 18, "pen pot": 15, "poster": 29,
}  # fmt: skip
COLOURS: dict[str, dict[str, Colour]] = {
    "warm": {"red": (198, 52, 44), "coral": (235, 110, 86), "mustard": (219, 165, 38),
             "burnt orange": (204, 98, 30)},
    "cool": {"navy": (38, 60, 112), "sky blue": (94, 160, 214), "teal": (28, 128, 132),
             "mint": (124, 196, 168)},
    "earth": {"olive": (112, 116, 58), "terracotta": (176, 92, 66), "sand": (198, 172, 128),
              "walnut": (104, 72, 50)},
    "mono": {"black": (44, 44, 48), "charcoal": (86, 88, 92), "silver": (164, 168, 172),
             "ivory": (222, 216, 200)},
}  # fmt: skip
STYLES: dict[str, tuple[str, ...]] = {
    "Nordic": ("pared back and calm", "with a quiet cross pattern", "made for small cabins"),
    "Retro": ("with big seventies rings", "a nod to old travel ads", "cheerfully old-fashioned"),
    "Botanical": ("covered in fern leaves", "drawn after a herbarium", "green-fingered and lush"),
    "Geometric": ("in sharp triangles", "strict, clean and graphic", "cut like folded paper"),
    "Coastal": ("with a rolling wave print", "salty and wind-worn", "made for harbour days"),
}
BRANDS = {
    "Nordic": ("Fjordhus", "Lumikko"),
    "Retro": ("Polestar Radio", "Mirabeau & Fils"),
    "Botanical": ("Fernery", "Moss & Petal"),
    "Geometric": ("Trigon Works", "Hexa"),
    "Coastal": ("Saltmarsh", "Lighthouse Row"),
}
NAMES = (
    *("Alma", "Birk", "Cleo", "Dune", "Edda", "Faro", "Gale", "Hald", "Iris", "Juno", "Kite"),
    *("Lark", "Mara", "Nils", "Orla", "Pine", "Quill", "Rhea", "Sol", "Tove", "Una", "Vale"),
)
TITLES = (
    "{style} {category} {name} in {colour}",
    "{name} {category}, {style} {colour}",
    "{brand} {style} {category}, {colour}",
)
OPENINGS = (
    "{category} in {colour}, {phrase}.",
    "{style} through and through: {colour} {category}, {phrase}.",
    "Our {colour} {category}: {phrase}.",
    "For people who like it {style}: {category} in {colour}, {phrase}.",
)
CLOSINGS = (
    "made of {material}.",
    "{material} throughout, built to last.",
    "finished by hand in {material}.",
    "we chose {material} because it ages well.",
)


@dataclass(frozen=True, slots=True)
class Product:
    """One item of the shop and what is planted in it."""

    item_id: str
    category: str
    style: str
    family: str
    colour: str
    appeal: float  # how often it is bought among its like; 0: never

    @property
    def group(self) -> str:
        """The planted taste that it serves."""
        return f"{self.style}/{self.family}"


Cell = tuple[str, str, str]  # category, style, family of colours
Event = tuple[int, str, str, str]  # time, user, item, kind


def write_sample(folder: Path, *, items: int = 1600, users: int = 3200, seed: int = 7) -> None:
    """Write a shop of so many items and users, in the catalogue format, and README.txt last."""
    folder.mkdir(parents=True, exist_ok=True)
    random = Random(seed)
    products = _products(items, random)
    rows = _rows(folder, products, random)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows] + _bad_lines(rows)
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    planted_groups = {product.item_id: product.group for product in products}
    (folder / PLANTED).write_text(json.dumps(planted_groups, indent=0), encoding="utf-8")
    events = sorted(_events(products, users, random))
    _write_log(folder / "interactions.csv.gz", events)
    (folder / "README.txt").write_text(_readme(len(products), users, len(events)), encoding="utf-8")


def planted(folder: Path) -> dict[str, str]:
    """Return the planted group of every item: its style and family of colours."""
    return json.loads((folder / PLANTED).read_text(encoding="utf-8"))


def _products(count: int, random: Random) -> list[Product]:
    """Spread the items evenly over all categories, styles and colours."""
    categories = [category for chain in CHAINS for category in chain]
    cells = [(c, s, f) for c in categories for s in STYLES for f in COLOURS]
    random.shuffle(cells)
    numbers = random.sample(range(10_000, 100_000), count)
    return [
        Product(
            item_id=f"P{number}",
            category=category,
            style=style,
            family=family,
            colour=random.choice(list(COLOURS[family])),
            appeal=0.0 if random.random() < NEVER_TOUCHED else random.paretovariate(1.1),
        )
        for number, (category, style, family) in zip(
            numbers, islice(cycle(cells), count), strict=False
        )
    ]


def _rows(folder: Path, products: Sequence[Product], random: Random) -> list[dict[str, Any]]:
    """Return the rows of the items file; write the pictures that they name."""
    (folder / "images").mkdir(exist_ok=True)
    order = random.sample(range(len(products)), len(products))
    no_image = round(NO_IMAGE * len(products))
    no_text = round(NO_TEXT * len(products))
    rows: list[dict[str, Any]] = []
    for place, product in zip(order, products, strict=True):
        row: dict[str, Any] = {"item_id": product.item_id}
        if place >= no_text:
            row |= _written(product, random)
        if place < len(products) - no_image:
            row["image_path"] = f"images/{product.item_id}.jpg"
            picture = draw(
                product.category,
                product.style,
                COLOURS[product.family][product.colour],
                seed=random.getrandbits(32),
            )
            (folder / row["image_path"]).write_bytes(picture)
        rows.append(row)
    _spoil_pictures(folder, [row for row in rows if "image_path" not in row])
    return rows


def _written(product: Product, random: Random) -> dict[str, Any]:
    """Return the attributes of a product as somebody in the shop would write them."""
    brands = BRANDS[product.style if random.random() < 0.85 else random.choice(list(STYLES))]
    material = random.choice(MATERIALS[product.category])
    words = {
        "style": product.style,
        "category": product.category,
        "colour": product.colour,
        "name": random.choice(NAMES),
        "brand": random.choice(brands),
        "material": material,
        "phrase": random.choice(STYLES[product.style]),
    }
    title, *text = (
        _sentence(random.choice(patterns), words) for patterns in (TITLES, OPENINGS, CLOSINGS)
    )
    return {
        "title": title,
        "brand": words["brand"],
        "category": product.category,
        "department": next(
            name
            for name, chain in zip(DEPARTMENTS, CHAINS, strict=True)
            if product.category in chain
        ),
        "colour": product.colour,
        "material": material,
        "style": product.style,
        "price": round(PRICES[product.category] * random.uniform(0.7, 1.6)) - 0.05,
        "description": " ".join(text),
    }


def _sentence(pattern: str, words: Mapping[str, str]) -> str:
    text = pattern.format(**words)
    return text[0].upper() + text[1:]


def _spoil_pictures(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Give some rows without a picture one that must be refused."""
    whole = draw("poster", "Retro", (198, 52, 44), seed=0)
    spoilt = {"truncated.jpg": whole[: len(whole) // 2], "empty.jpg": b"", "text.jpg": b"no image"}
    for name, data in spoilt.items():
        (folder / "images" / name).write_bytes(data)
    paths = [*(f"images/{name}" for name in spoilt), "images/missing.jpg", "../outside.jpg"]
    for row, path in zip(rows, paths, strict=False):
        row["image_path"] = path


def _bad_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return lines of the items file that no item can come of."""
    nameless = {"title": "A row whose id was lost", "price": 1.0}
    repeated = {"item_id": rows[0]["item_id"], "title": "A second row of the same id"}
    return [json.dumps(nameless), json.dumps(repeated), '{"item_id": "P0", "title": "cut o']


def _events(products: Sequence[Product], users: int, random: Random) -> Iterator[Event]:
    """Yield what every user buys, in no order."""
    shelves: dict[Cell, list[Product]] = {}
    for product in products:
        if product.appeal:
            cell = (product.category, product.style, product.family)
            shelves.setdefault(cell, []).append(product)
    for number in range(users):
        taste = _taste(random)
        bought: set[str] = set()
        times = iter(_times(random))
        for time, category in zip(times, _walk(random), strict=False):
            product = _choice(shelves, category, taste, bought, random)
            if product is not None:
                bought.add(product.item_id)
                kind = "purchase" if random.random() < 0.7 else "wish"
                yield time, f"u{number:05d}", product.item_id, kind


def _taste(random: Random) -> list[tuple[str, str]]:
    """Return the styles and colours of one user, the favourite first; some are in fashion."""
    styles = random.choices(list(STYLES), weights=(5, 4, 3, 3, 2), k=2)
    families = random.choices(list(COLOURS), weights=(3, 4, 2, 3), k=2)
    return list(zip(styles, families, strict=True))


def _walk(random: Random) -> Iterator[str]:
    """Yield categories without end: mostly down a chain, then on to the next chain's top."""
    chain, step = random.randrange(len(CHAINS)), 0
    while True:
        yield CHAINS[chain][step]
        if random.random() < 0.8:
            step += 1
            if step == len(CHAINS[chain]):
                chain, step = (chain + 1) % len(CHAINS), 0
        else:
            chain, step = random.randrange(len(CHAINS)), random.choice((0, 0, 1, 2))


def _choice(
    shelves: Mapping[Cell, Sequence[Product]],
    category: str,
    taste: Sequence[tuple[str, str]],
    bought: set[str],
    random: Random,
) -> Product | None:
    """Return what a user takes of a category: to their taste, mostly what many take."""
    chance = random.random()
    if chance < 0.9:
        style, family = taste[chance > 0.72]
    else:
        style, family = random.choice(list(STYLES)), random.choice(list(COLOURS))
    shelf = shelves.get((category, style, family), ())
    new = [product for product in shelf if product.item_id not in bought]
    return random.choices(new, weights=[p.appeal for p in new])[0] if new else None


def _times(random: Random) -> list[int]:
    """Return the moments at which one user buys: bursts within a year."""
    count = min(40, 6 + int(random.expovariate(1 / 13)))
    first = random.uniform(0, 0.7 * YEAR)
    moments = [first]
    for _ in range(count - 1):
        days = random.expovariate(1 / 2) if random.random() < 0.75 else random.expovariate(1 / 20)
        moments.append(moments[-1] + 60 + days * DAY)
    room = (YEAR - first) * random.uniform(0.5, 1)
    squeeze = min(1.0, room / (moments[-1] - first + 1))
    return [START + int(first + (moment - first) * squeeze) for moment in moments]


def _write_log(path: Path, events: Sequence[Event]) -> None:
    """Write the log as CSV, a few bad rows among it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["user_id", "item_id", "timestamp", "event"])
    writer.writerows((user, item, time, kind) for time, user, item, kind in events)
    _, user, item, kind = events[-1]
    writer.writerows(
        [
            (user, item, "31st of June", kind),
            (user, item, "", kind),
            (user, "P0", START, kind),
            ("", item, START, kind),
            (user, item),
        ]
    )
    with gzip.GzipFile(path, "wb", mtime=0) as file:  # no date in it: equal logs, equal bytes
        file.write(buffer.getvalue().encode())


def _readme(items: int, users: int, events: int) -> str:
    return f"""A generated shop in Itemnest's catalogue format. Nothing and nobody in it is real.

items.jsonl           {items} items and three rows that no item can come of
images/               their pictures; some items have none, some have a broken one
interactions.csv.gz   {events} events of {users} users and five broken rows; unix seconds, 2025
planted.json          the planted group of every item (style/colours): what neighbours should share
"""
