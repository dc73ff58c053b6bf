"""What the store holds of items, behaviour and spaces, as arrays in today's row order.

Ids become rows and tables become arrays here. It reads; what is computed from the arrays, and what
becomes of it, is decided in the modules that call it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from safetensors.numpy import load as load_arrays

from alignment.collaborative import Collaborative
from alignment.fuse import Residuals
from alignment.space import ItemSpace
from alignment.whiten import Content, Encoded
from assets.inputs import load_ids, makings, vectors_wanted
from assets.lake import Lake
from encoders.spec import MODALITIES, Modality
from matryoshka.prefix import Vectors
from store.releases import Release
from store.schema import ROLES, item_vectors_table, matrix, positions, vector_key

VIEWS: dict[str, list[str]] = {
    "content": [],
    "aligned": [],
    "fused": ["context", "target"],
    "collaborative": ["context", "target"],
}


def columns() -> list[str]:
    """Return the columns of item_vectors: one per view and role."""
    return [f"{view}_{role}" if role else view for view in VIEWS for role in VIEWS[view] or [""]]


def load_content(lake: Lake) -> Content:
    """Return the raw encoder outputs of all items, with a bit per item that has the modality."""
    ids = load_ids(lake)
    return Content(*(_modality(lake, modality, ids) for modality in MODALITIES))


def _modality(lake: Lake, modality: Modality, ids: pa.Array) -> Encoded:
    tower, name = lake.tower(modality), f"{modality}_vectors"
    if tower is None or name not in lake.built(name).tables:
        return encoded(None, ids, 0)
    rows = vectors_wanted(lake, modality)
    table = lake.read(name, columns=["key", "item_id", "vector"])
    # The cache may still have what an item was before.
    return encoded(table.filter(pc.is_in(table["key"], rows["key"])), ids, tower.dim)


def encoded(table: pa.Table | None, ids: pa.Array, dim: int) -> Encoded:
    """Return rows of one encoder's output as float32 [n, dim] for ids [n], and who has one.

    An item has one row at most, and zeros without one; None has no rows.
    """
    vectors, has = np.zeros((len(ids), dim), np.float32), np.zeros(len(ids), bool)
    if table is not None:
        rows = pc.index_in(table["item_id"], ids).to_numpy()
        vectors[rows], has[rows] = matrix(table["vector"]), True
    return Encoded(vectors, has)


def load_collaborative(lake: Lake, period: str, *, at: int | None = None) -> Collaborative:
    """Return the collaborative vectors of a period as they were factorised, in today's rows.

    at: a table version, by default the one last built. An item without a row has support 0.
    """
    ids, name = load_ids(lake), "collaborative_vectors"
    table = lake.tables.read(name, version=at or lake.built(name).tables[name])
    return _collaborative(table.filter(pc.equal(table["period"], period)), ids)


def load_residuals(lake: Lake, period: str, *, at: int | None = None) -> Residuals:
    """Return the residuals of a period in the frame they were trained in, in today's rows.

    at: a table version, by default the one last built. An item without a row has zeros.
    """
    ids, name = load_ids(lake), "item_residuals"
    table = lake.tables.read(name, version=at or lake.built("item_space").tables[name])
    return _residuals(table.filter(pc.equal(table["period"], period)), ids)


def _residuals(table: pa.Table, ids: pa.Array) -> Residuals:
    table, now = _here(table, ids)
    context, target = (_spread(table[role], now, len(ids)) for role in ROLES)
    return Residuals(context, target)


def _collaborative(table: pa.Table, ids: pa.Array) -> Collaborative:
    table, now = _here(table, ids)
    support = np.zeros(len(ids), np.int32)
    support[now] = table["support"].to_numpy()
    context, target = (_spread(table[role], now, len(ids)) for role in ROLES)
    return Collaborative(context, target, support)


def _here(table: pa.Table, ids: pa.Array) -> tuple[pa.Table, NDArray[np.int32]]:
    """Return a table's rows about items there are, and which rows of today these items are."""
    rows = pc.index_in(table["item_id"], ids)
    here = pc.is_valid(rows)
    return table.filter(here), rows.filter(here).to_numpy()


def _spread(column: pa.ChunkedArray, rows: NDArray[np.int32], n: int) -> Vectors:
    """Return the vectors of a column as float32 [n, width] at some rows, with zeros elsewhere."""
    spread = np.zeros((n, column.type.list_size), np.float32)
    spread[rows] = matrix(column)
    return spread


@dataclass(frozen=True, slots=True)
class StoredSpace:
    """A space and the ids of the items that its anchors were when it was fitted."""

    space_id: str
    space: ItemSpace
    anchor_ids: list[str]

    def turned(self, known: Collaborative, ids: pa.Array) -> Collaborative:
        """Rotate collaborative vectors of today's rows, whose ids these are, into its frame."""
        rows = np.full(int(self.space.anchors.rows.max(initial=-1)) + 1, -1)
        now = pc.index_in(pa.array(self.anchor_ids, pa.string()), ids)
        rows[self.space.anchors.rows] = now.fill_null(-1).to_numpy()
        return self.space.align(known, rows)


def load_space(lake: Lake) -> StoredSpace:
    """Return the space that item_space last settled on, as it reads today's log."""
    built = lake.built("item_space").metadata
    return _space(lake, built["space_id"], built["description"])


def space_of(lake: Lake, release: Release) -> StoredSpace:
    """Return the space of a release, as it read the log of that day."""
    return _space(lake, release.space_id, release.description["space"])


def _space(lake: Lake, space_id: str, description: dict[str, Any]) -> StoredSpace:
    row = lake.tables.take("spaces", "space_id", [space_id]).to_pylist()[0]
    space = ItemSpace.restore(load_arrays(row["weights"]), description)
    if space.space_id != space_id:
        raise RuntimeError(f"the stored space {space_id} does not hold what it was fitted to")
    return StoredSpace(space_id, space, json.loads(row["description"])["anchor_ids"])


def released_space(lake: Lake) -> StoredSpace | None:
    """Return the visible release's space if a new one would be made of the same things."""
    release = lake.shown()
    if release is None or release.description.get("makings") != makings(lake):
        return None
    return space_of(lake, release)


def evidence(lake: Lake, stored: StoredSpace, period: str) -> Collaborative:
    """Return the collaborative vectors of a period in the frame of a space."""
    return stored.turned(load_collaborative(lake, period), load_ids(lake))


def evidence_of(
    lake: Lake, stored: StoredSpace, ids: pa.Array, *, at: Mapping[str, int]
) -> tuple[Collaborative, Residuals]:
    """Return the evidence of the whole log about some items, in the frame of a space.

    at: table versions. The anchors are read beside the items, no others.
    """
    everyone = pa.array(dict.fromkeys([*stored.anchor_ids, *ids.to_pylist()]), pa.string())
    keys = vector_key(everyone, "all").to_pylist()
    table, added = (
        lake.tables.take(name, "key", keys, version=at[name])
        for name in ("collaborative_vectors", "item_residuals")
    )
    known = stored.turned(_collaborative(table, everyone), everyone)
    rows = positions(ids, everyone).to_numpy()
    about = Collaborative(known.context[rows], known.target[rows], known.support[rows])
    return about, _residuals(added, ids)


def vector_rows(
    stored: StoredSpace, ids: pa.Array, content: Content, known: Collaborative, added: Residuals
) -> pa.Table:
    """Apply a space: return the rows of `item_vectors` of these items, in this order."""
    views = stored.space.views(content, known, added)
    return item_vectors_table(
        ids,
        {name: getattr(views, name) for name in columns()},
        has_text=content.text.has,
        has_image=content.image.has,
        has_multimodal=content.multimodal.has,
        support=known.support,
    )
