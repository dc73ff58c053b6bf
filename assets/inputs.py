"""What every asset is built from, as digests: how a run knows that nothing has changed.

It reads hashes and ids, never content, and builds nothing.
"""

from importlib.metadata import version

import pyarrow as pa
import pyarrow.compute as pc

from alignment.space import FORMAT
from assets.lake import Lake, digest
from encoders.registry import Modality, Tower
from store.schema import vector_key
from store.tables import Tables

MODALITIES: tuple[Modality, ...] = ("text", "image")
UPSTREAM = ("text_vectors", "image_vectors", "collaborative_vectors")


def load_ids(lake: Lake) -> pa.Array:
    """Return the ids of all items, ascending: the row order of every array here."""
    return lake.read("items", columns=["item_id"])["item_id"].combine_chunks().sort()


def item_hashes(tables: Tables) -> pa.Table:
    """Return id and row hash of the newest items, by id: their digest is what `items` holds."""
    return tables.read("items", columns=["item_id", "row_hash"]).sort_by("item_id")


def wanted(items: pa.Table, modality: Modality, tower: Tower | None) -> pa.Table:
    """Return the vectors that items should have: key, item_id, content_hash, by item_id.

    items: rows with `item_id` and the hash of the modality.
    """
    hash_column = f"{modality}_hash"
    items = items.select(["item_id", hash_column]).sort_by("item_id")
    items = items.filter(pc.is_valid(items[hash_column])).rename_columns(
        ["item_id", "content_hash"]
    )
    if tower is None:
        items = items.slice(0, 0)
    keys = vector_key(items["item_id"], tower.digest if tower else "", items["content_hash"])
    return items.append_column("key", keys)


def encoding_inputs(lake: Lake, modality: Modality) -> str:
    """Digest of what `<modality>_vectors` is built from: contents, by item, and the tower."""
    tower = lake.tower(modality)
    items = lake.read("items", columns=["item_id", f"{modality}_hash"])
    return digest(wanted(items, modality, tower), tower.digest if tower else "none")


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
    return digest(towers, lake.settings.dims, lake.settings.seed, version("itemnest"), FORMAT)


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
