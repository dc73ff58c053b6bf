"""Items into raw encoder outputs, cached by item id, encoder digest and content hash.

So an unchanged item is never encoded again, and a killed run goes on where it stopped. What the
vectors mean is the encoder's.
"""

from collections.abc import Sequence
from time import monotonic

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.inputs import encoding_inputs, wanted
from assets.lake import Build, Lake
from encoders.encoder import Item, Vectors
from encoders.engine import LocalEngine
from encoders.registry import Modality, Tower
from store.schema import vector_array, vectors_schema

COMMIT = 512  # items per commit: what a killed run loses at most


def encode(lake: Lake, modality: Modality) -> Build:
    """Bring `<modality>_vectors` up to date with the items; encode only what is missing."""
    name, tower = f"{modality}_vectors", lake.tower(modality)
    inputs = encoding_inputs(lake, modality)
    if build := lake.unchanged(name, inputs):
        return lake.record(
            name, inputs, build.tables, {**build.metadata, "encoded": 0, "encoding seconds": 0.0}
        )
    started = monotonic()
    rows = wanted(lake.read("items", columns=["item_id", f"{modality}_hash"]), modality, tower)
    encoded = _fill(lake, modality, tower, rows) if tower else 0
    metadata = {
        "rows": rows.num_rows,
        "encoded": encoded,
        "encoder": tower.name if tower else "none",
        "dim": tower.dim if tower else 0,
        "encoding seconds": round(monotonic() - started, 2),
    }
    return lake.record(name, inputs, lake.versions(name) if tower else {}, metadata)


def _fill(lake: Lake, modality: Modality, tower: Tower, rows: pa.Table) -> int:
    """Encode what is missing of the wanted rows; drop what no item wants any more."""
    name = f"{modality}_vectors"
    if lake.tables.version(name) is None or _width(lake, name) != tower.dim:
        lake.tables.replace(name, vectors_schema(tower.dim).empty_table())
    have = lake.tables.read(name, columns=["key", "encoder"])
    missing = rows.filter(pc.invert(pc.is_in(rows["key"], have["key"])))
    encode_missing(lake, modality, tower, missing, items=lake.built("items").tables["items"])
    stale = have.filter(
        pc.and_(
            pc.equal(have["encoder"], tower.digest),
            pc.invert(pc.is_in(have["key"], rows["key"])),
        )
    )
    lake.tables.delete(name, "key", stale["key"].to_pylist())
    return len(missing)


def encode_missing(
    lake: Lake, modality: Modality, tower: Tower, missing: pa.Table, *, items: int
) -> None:
    """Encode the `wanted` rows given, a commit per COMMIT items; content is read and decoded ahead.

    items: the version of the table that holds their content.
    """
    if not len(missing):
        return
    lake.progress(0, len(missing), f"encoding {modality}")
    chunks = [missing.slice(start, COMMIT) for start in range(0, len(missing), COMMIT)]
    contents = (_content(lake, modality, chunk["item_id"].to_pylist(), items) for chunk in chunks)
    done = 0
    for chunk, vectors in zip(chunks, LocalEngine().map(tower.load, contents), strict=True):
        lake.tables.append(f"{modality}_vectors", _rows(tower, chunk, vectors))
        done += len(chunk)
        lake.progress(done, len(missing), f"encoding {modality}")


def _rows(tower: Tower, chunk: pa.Table, vectors: Vectors) -> pa.Table:
    columns = {
        **{name: chunk[name] for name in ("key", "item_id", "content_hash")},
        "encoder": pa.array([tower.digest] * len(chunk)),
        "vector": vector_array(vectors.astype(np.float16)),
    }
    schema = vectors_schema(tower.dim)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _content(lake: Lake, modality: Modality, ids: Sequence[str], version: int) -> list[Item]:
    rows = lake.tables.take("items", "item_id", ids, columns=["item_id", modality], version=version)
    content = dict(zip(rows["item_id"].to_pylist(), rows[modality].to_pylist(), strict=True))
    return [Item(**{modality: content[item]}) for item in ids]


def _width(lake: Lake, name: str) -> int:
    return lake.tables.schema(name).field("vector").type.list_size
