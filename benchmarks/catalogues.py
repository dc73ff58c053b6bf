"""Stores whose items are ingested and not encoded yet: what the encoding benchmarks start from.

It knows catalogues and stores. It does not know what is measured.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from assets.catalogue import ingest_items
from assets.inputs import item_hashes
from assets.lake import Lake, digest, open_lake
from assets.settings import Settings, parse
from store.schema import items_schema

DATASETS = Path(__file__).resolve().parents[2] / "shared" / "datasets"
SIDE = 1024  # pixels: a picture of one megapixel
WRITTEN = 500  # generated pictures per write


def settings_of(folder: Path, catalogue: Path) -> Settings:
    """Return the default settings for a catalogue, with the store in a folder."""
    return parse({"catalogue": str(catalogue), "store": "store"}, folder=folder)


@contextmanager
def ingested(settings: Settings) -> Iterator[Lake]:
    """Open a lake whose items are what the catalogue has now."""
    with open_lake(settings) as lake:
        ingest_items(lake.tables, settings)
        record_items(lake)
        yield lake


def record_items(lake: Lake) -> None:
    """Record the newest items as the build that encoders read."""
    hashes = item_hashes(lake.tables)
    versions = lake.versions("items", "rejected_items")
    lake.record("items", digest(hashes), versions, {"rows": len(hashes)})


def texts_of(lake: Lake) -> list[str]:
    """Return the rendered texts of all items, in table order."""
    return lake.read("items", columns=["text"])["text"].to_pylist()


def pictures_of(lake: Lake) -> list[bytes]:
    """Return the pictures of all items that have one, in table order."""
    return lake.read("items", columns=["image"])["image"].drop_null().to_pylist()


def forget(lake: Lake, modality: str) -> None:
    """Let the next encoding of a modality start from nothing."""
    name = f"{modality}_vectors"
    if lake.tables.version(name) is not None:
        lake.tables.replace(name, lake.tables.schema(name).empty_table())
        lake.tables.delete("builds", "asset", [name])


def changed_copy(catalogue: Path, folder: Path, *, every: int) -> Path:
    """Write a catalogue of the same items, every n-th with another title and another picture."""
    table = pq.read_table(catalogue / "items.parquet")
    rows = table.to_pylist()
    folder.mkdir()
    (folder / "images").symlink_to((catalogue / "images").resolve(), target_is_directory=True)
    (folder / "changed").mkdir()
    for row in rows[::every]:
        row["title"] = f"{row['title']} (restored)"
        if row["image_path"]:
            picture = Image.open(catalogue / row["image_path"]).convert("RGB")
            row["image_path"] = f"changed/{Path(row['image_path']).stem}.jpg"
            picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / row["image_path"])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), folder / "items.parquet")
    return folder


def megapixels(lake: Lake, count: int) -> None:
    """Write `count` items with a picture of one megapixel each, no two of the same bytes."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    waves = [128 + 100 * np.sin(x / (9 + c) + y / (23 - c)) for c in range(3)]
    picture = Image.fromarray(np.stack(waves, -1).astype(np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    start, rest = buffer.getvalue()[:2], buffer.getvalue()[2:]
    for first in range(0, count, WRITTEN):
        numbers = range(first, min(first + WRITTEN, count))
        # A comment segment makes the bytes differ; every decoder skips it.
        rows = [
            {
                "item_id": f"P{n:07}",
                "image": start + b"\xff\xfe\x00\x0a" + f"{n:08}".encode() + rest,
                "image_hash": f"{n:032x}",
                "image_status": "ok",
                "row_hash": f"{n:x}",
                "origin": "catalogue",
            }
            for n in numbers
        ]
        lake.tables.append("items", pa.Table.from_pylist(rows, schema=items_schema()))
    lake.record("items", f"{count} pictures", lake.versions("items"), {"rows": count})
