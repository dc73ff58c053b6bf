"""Assets that turn items into raw encoder outputs: text_vectors and image_vectors.

A vector is cached by item id, encoder digest and content hash, so that an unchanged item is never
encoded again and a killed run goes on where it stopped. What the vectors mean is the encoder's.
"""

from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.lake import Build, Lake, digest
from assets.report import thumbnails
from encoders.encoder import Item, Vectors
from encoders.engine import LocalEngine
from encoders.registry import Modality, Tower
from store.schema import vector_key, vectors_schema

COMMIT = 512  # items per commit: what a killed run loses at most


@dg.asset(
    deps=["items"],
    group_name="encoders",
    kinds={"torch", "lancedb"},
    owners=["team:itemnest"],
)
def text_vectors(lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
    """Raw text encoder output: one float16 vector per item that has text."""
    return dg.MaterializeResult(metadata=_metadata(encode(lake, "text")))


@dg.asset(
    deps=["items"],
    group_name="encoders",
    kinds={"torch", "lancedb"},
    owners=["team:itemnest"],
)
def image_vectors(lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
    """Raw image encoder output: one float16 vector per item that has a usable image."""
    build = encode(lake, "image")
    return dg.MaterializeResult(metadata={**_metadata(build), "pictures": thumbnails(lake)})


def encode(lake: Lake, modality: Modality) -> Build:
    """Bring `<modality>_vectors` up to date with the items; encode only what is missing."""
    name, tower = f"{modality}_vectors", lake.tower(modality)
    wanted, inputs = _wanted(lake, modality, tower), encoding_inputs(lake, modality)
    if build := lake.unchanged(name, inputs):
        return lake.record(
            name, inputs, build.tables, {**build.metadata, "encoded": 0, "encoding seconds": 0.0}
        )
    started = monotonic()
    encoded = _fill(lake, modality, tower, wanted) if tower else 0
    metadata = {
        "rows": wanted.num_rows,
        "encoded": encoded,
        "encoder": tower.name if tower else "none",
        "dim": tower.dim if tower else 0,
        "encoding seconds": round(monotonic() - started, 2),
    }
    return lake.record(name, inputs, lake.versions(name) if tower else {}, metadata)


def encoding_inputs(lake: Lake, modality: Modality) -> str:
    """Digest of what `<modality>_vectors` is built from: contents, by item, and the tower."""
    tower = lake.tower(modality)
    return digest(_wanted(lake, modality, tower), tower.digest if tower else "none")


def _metadata(build: Build) -> dict[str, Any]:
    found = dict(build.metadata)
    encoded = found["encoded"]
    what = f"{encoded:,} encoded by {found['encoder']}" if encoded else "nothing to encode"
    return {"what": what, "dagster/row_count": found.pop("rows"), **found}


def _wanted(lake: Lake, modality: Modality, tower: Tower | None) -> pa.Table:
    """The vectors that should exist: key, item_id, content_hash, in order of item_id."""
    hash_column = f"{modality}_hash"
    items = lake.read("items", columns=["item_id", hash_column]).sort_by("item_id")
    items = items.filter(pc.is_valid(items[hash_column])).rename_columns(
        ["item_id", "content_hash"]
    )
    if tower is None:
        items = items.slice(0, 0)
    keys = vector_key(items["item_id"], tower.digest if tower else "", items["content_hash"])
    return items.append_column("key", keys)


def _fill(lake: Lake, modality: Modality, tower: Tower, wanted: pa.Table) -> int:
    """Encode what is missing, a commit per COMMIT items; drop what no item wants any more."""
    name = f"{modality}_vectors"
    schema = vectors_schema(tower.dim)
    if lake.tables.version(name) is None or _width(lake, name) != tower.dim:
        lake.tables.replace(name, schema.empty_table())
    have = lake.tables.read(name, columns=["key", "encoder"])
    missing = wanted.filter(pc.invert(pc.is_in(wanted["key"], have["key"])))
    done = 0
    for chunk, vectors in _encoded(lake, modality, tower, missing):
        rows = pa.table(
            {
                "key": chunk["key"],
                "item_id": chunk["item_id"],
                "encoder": pa.array([tower.digest] * len(chunk)),
                "content_hash": chunk["content_hash"],
                "vector": pa.FixedSizeListArray.from_arrays(
                    pa.array(vectors.astype(np.float16).ravel()), tower.dim
                ),
            },
            schema=schema,
        )
        lake.tables.append(name, rows)
        done += len(chunk)
        lake.progress(done, len(missing), f"encoding {modality}")
    stale = have.filter(
        pc.and_(
            pc.equal(have["encoder"], tower.digest),
            pc.invert(pc.is_in(have["key"], wanted["key"])),
        )
    )
    lake.tables.delete(name, "key", stale["key"].to_pylist())
    return done


def _encoded(
    lake: Lake, modality: Modality, tower: Tower, missing: pa.Table
) -> Iterator[tuple[pa.Table, Vectors]]:
    """Yield each chunk of `missing` with its vectors; content is read and decoded ahead."""
    if not len(missing):
        return
    lake.progress(0, len(missing), f"encoding {modality}")
    chunks = [missing.slice(start, COMMIT) for start in range(0, len(missing), COMMIT)]
    batches = (_content(lake, modality, chunk["item_id"].to_pylist()) for chunk in chunks)
    yield from zip(chunks, LocalEngine().map(tower.load, batches), strict=True)


def _content(lake: Lake, modality: Modality, ids: Sequence[str]) -> list[Item]:
    version = lake.built("items").tables["items"]
    rows = lake.tables.take("items", "item_id", ids, columns=["item_id", modality], version=version)
    content = dict(zip(rows["item_id"].to_pylist(), rows[modality].to_pylist(), strict=True))
    return [Item(**{modality: content[item]}) for item in ids]


def _width(lake: Lake, name: str) -> int:
    return lake.tables.schema(name).field("vector").type.list_size
