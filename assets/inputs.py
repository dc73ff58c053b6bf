"""What every asset is built from, as digests: how a run knows that nothing has changed.

It reads hashes and ids, never content, and builds nothing.
"""

from importlib.metadata import version

import pyarrow as pa
import pyarrow.compute as pc

from alignment.space import FORMAT
from assets.lake import Lake, digest
from encoders.spec import MODALITIES, Modality
from store.schema import positions, vector_key
from store.tables import Tables

CACHES = tuple(f"{modality}_vectors" for modality in MODALITIES)
UPSTREAM = (*CACHES, "collaborative_vectors")
HASHES = ["item_id", "text_hash", "image_hash"]
SAID = ["key", "item_id", "description_hash"]


def load_ids(lake: Lake) -> pa.Array:
    """Return the ids of all items, ascending: the row order of every array here."""
    return lake.read("items", columns=["item_id"])["item_id"].combine_chunks().sort()


def item_hashes(tables: Tables) -> pa.Table:
    """Return id and row hash of the newest items, by id: their digest is what `items` holds."""
    return tables.read("items", columns=["item_id", "row_hash"]).sort_by("item_id")


def wanted(items: pa.Table, modality: Modality, maker: str | None, said: pa.Table) -> pa.Table:
    """Return what items should have of a model: key, item_id, content_hash, by item_id.

    items: rows with the columns HASHES. maker: the model's digest; of None nothing is wanted.
    said: descriptions of items, with the columns SAID, which the text tower reads.
    """
    hashes = _content_hashes(items, modality, said)
    found = pa.table({"item_id": items["item_id"], "content_hash": hashes})
    found = found.filter(pc.is_valid(found["content_hash"])).sort_by("item_id")
    if maker is None:
        found = found.slice(0, 0)
    return found.append_column(
        "key", vector_key(found["item_id"], maker or "", found["content_hash"])
    )


def _content_hashes(items: pa.Table, modality: Modality, said: pa.Table) -> pa.ChunkedArray:
    """Identify what a model of this modality reads of each item; null where there is nothing."""
    if modality == "image":
        return items["image_hash"]
    if modality == "multimodal":
        return _joined(items["text_hash"], items["image_hash"])
    at = positions(items["item_id"].combine_chunks(), said["item_id"])
    return _joined(items["text_hash"], said["description_hash"].combine_chunks().take(at))


def _joined(first: pa.ChunkedArray, second: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """Join two hashes; one alone stands for itself."""
    both = pc.call_function("binary_join_element_wise", [first, second, "+"])
    return pc.coalesce(both, first, second)


def content_of_items(lake: Lake) -> pa.Table:
    """Return the hashes of all items' contents."""
    return lake.read("items", columns=HASHES)


def descriptions_wanted(lake: Lake) -> pa.Table:
    """Return the descriptions that items should have: key, item_id, content_hash."""
    describer = lake.describer()
    maker = describer.digest if describer else None
    return wanted(content_of_items(lake), "multimodal", maker, no_descriptions())


def no_descriptions() -> pa.Table:
    """Return descriptions of no item."""
    return pa.table({name: pa.array([], pa.string()) for name in SAID})


def load_said(lake: Lake, *, columns: tuple[str, ...] = ()) -> pa.Table:
    """Return the descriptions that today's items have, with the columns SAID and others."""
    name = "item_descriptions"
    build = lake.build(name)
    if build is None or name not in build.tables:
        return no_descriptions()
    said = lake.read(name, columns=[*SAID, *columns])
    return said.filter(pc.is_in(said["key"], descriptions_wanted(lake)["key"]))


def lacking(lake: Lake, table: str, rows: pa.Table) -> pa.Table:
    """Return those of the wanted rows that a cache does not have."""
    if not len(rows) or lake.tables.version(table) is None:
        return rows
    return rows.filter(pc.invert(pc.is_in(rows["key"], _keys(lake, table))))


def _keys(lake: Lake, table: str) -> pa.ChunkedArray:
    return lake.tables.read(table, columns=["key"])["key"]


def description_inputs(lake: Lake) -> str:
    """Digest of what item_descriptions is built from, and of what it lacks all the same."""
    describer, rows = lake.describer(), descriptions_wanted(lake)
    without = lacking(lake, "item_descriptions", rows)
    return digest(rows, without, describer.digest if describer else "none")


def vectors_wanted(lake: Lake, modality: Modality) -> pa.Table:
    """Return the vectors that items should have: key, item_id, content_hash, by item_id."""
    tower = lake.tower(modality)
    maker = tower.digest if tower else None
    return wanted(content_of_items(lake), modality, maker, load_said(lake))


def encoding_inputs(lake: Lake, modality: Modality) -> str:
    """Digest of what `<modality>_vectors` is built from, and of what it lacks all the same."""
    tower, rows = lake.tower(modality), vectors_wanted(lake, modality)
    without = lacking(lake, f"{modality}_vectors", rows)
    return digest(rows, without, tower.digest if tower else "none")


def collaborative_inputs(lake: Lake) -> str:
    """Digest of what collaborative_vectors is built from."""
    return digest(lake.built("interactions").inputs, load_ids(lake).to_pylist(), makings(lake))


def space_inputs(lake: Lake) -> str:
    """Digest of what item_space is built from."""
    return digest(*(lake.built(name).inputs for name in UPSTREAM), makings(lake))


def vectors_inputs(lake: Lake) -> str:
    """Digest of what item_vectors is built from."""
    space_id = lake.built("item_space").metadata["space_id"]
    return digest(space_id, *(lake.built(name).inputs for name in (*UPSTREAM, "items")))


def makings(lake: Lake) -> str:
    """Digest of what a space is made with besides data: a change of it is a new space."""
    towers = [tower.digest if (tower := lake.tower(m)) else None for m in MODALITIES]
    said = lake.settings
    made = (said.dims, said.seed, said.collaborative.method, version("itemnest"), FORMAT)
    return digest(towers, *made)


def quality_inputs(lake: Lake) -> str:
    """Digest of what quality is measured on."""
    return digest(lake.built("item_vectors").inputs, lake.built("interactions").inputs)


def release_inputs(lake: Lake) -> str:
    """Digest of everything that a release shows."""
    version = lake.built("interactions").tables["rejected_items"]
    rejected = lake.tables.read("rejected_items", version=version)
    return digest(
        *(lake.built(name).inputs for name in ("item_vectors", "quality", "items")), rejected
    )
