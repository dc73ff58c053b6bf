"""Small catalogues that tests write, ingest and encode, with the default towers or tiny ones."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from assets.ingest import catalogue
from assets.inputs import item_hashes
from assets.lake import Lake, digest, open_lake
from assets.settings import Settings, parse
from tests.encoders.pictures import encoded, gradient


def item(number: int, *, title: str | None = None, shift: int | None = None) -> dict[str, Any]:
    """Item number n: a title, and a picture of its own."""
    picture = encoded(gradient(40, 30, shift=number if shift is None else shift))
    return {
        "item_id": f"I{number:03}",
        "title": f"Lamp number {number}" if title is None else title,
        "image": base64.b64encode(picture).decode(),
    }


def write(folder: Path, items: Sequence[Mapping[str, Any]]) -> None:
    """Write a catalogue of these items, in which nothing has happened yet."""
    (folder / "catalogue").mkdir(exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in items)
    (folder / "catalogue" / "items.jsonl").write_text(lines)
    (folder / "catalogue" / "interactions.jsonl").touch()


def settings_of(folder: Path, **sections: Any) -> Settings:
    """Settings of a store in the folder; sections as in itemnest.toml."""
    return parse({"store": "store", **sections}, folder=folder)


@contextmanager
def ingested(settings: Settings) -> Iterator[Lake]:
    """A lake whose items are what the catalogue has now."""
    with open_lake(settings) as lake:
        catalogue.ingest_items(lake.tables, settings)
        hashes = item_hashes(lake.tables)
        versions = lake.versions("items", "rejected_items")
        lake.record("items", digest(hashes), versions, {"rows": len(hashes)})
        yield lake


def rows(lake: Lake, table: str) -> pa.Table:
    """The newest rows of a cache, by key."""
    return lake.tables.read(table).sort_by("key")


def without(settings: Settings, *modalities: str) -> Settings:
    """The settings with some towers switched off."""
    none = replace(settings.encoders.text, tower="none")
    return replace(settings, encoders=replace(settings.encoders, **dict.fromkeys(modalities, none)))
