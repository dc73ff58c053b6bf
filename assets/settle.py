"""Decides whether the released space is kept or a new one is fitted, and compares the two.

The arithmetic is alignment's; which tables hold what was decided, `assets.space` says.
"""

import json
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from safetensors.numpy import save as save_arrays

from alignment.collaborative import Recipe
from alignment.consumer import trial
from alignment.fit import fit, outgrown, relearn
from alignment.fuse import Residuals
from alignment.improve import Fitted
from alignment.interactions import Split
from alignment.space import ItemSpace
from alignment.towards import Published, towards
from alignment.versions import Version, cross_version
from alignment.whiten import Content
from assets.inputs import load_ids
from assets.lake import Lake
from assets.stored import (
    StoredSpace,
    evidence,
    load_collaborative,
    load_residuals,
    released_space,
)
from store.schema import SPACES, matrix

JUDGES = 3000  # users whose recall says whether a space is kept
KEPT = 0.95  # of the recall must survive across versions, else the space is a new one
PUBLISHED = ("aligned", "fused_context", "fused_target")  # what is trained, as columns


class Settled(NamedTuple):
    """A space, what the training period adds in it, and how it stands to the released vectors.

    matrix: R@10 of old and new users among old and new items at every dim, on validation, both
    sides with the evidence of their training period only; empty where there is nothing to compare.
    """

    stored: StoredSpace
    past: Residuals
    matrix: list[dict[str, float]]
    what: str


def settled(lake: Lake, content: Content, split: Split) -> Settled:
    """Keep the released space if the last release's users still find what they want in it.

    One that the log has outgrown is not asked.
    """
    released = released_space(lake)
    if released is None:
        return Settled(*_fitted(lake, content, split), [], "fitted")
    older, known = _older(lake, released, content), evidence(lake, released, "train")
    if outgrown(released.space, known.support):
        why = "more than twice the items have events since the released space was fitted"
    else:
        now = relearn(released.space, content, known, split)
        kept = replace(released, space=now.space), now.residuals
        matrix = _across(lake, older, *kept, content, split)
        survived = f"{ratio(matrix):.3f} of the recall across versions"
        if ratio(matrix) >= KEPT:
            return Settled(*kept, matrix, f"kept: {survived}")
        why = f"the released space keeps {survived}, {KEPT} are needed"
    new = _fitted(lake, content, split)
    return Settled(*new, _across(lake, older, *new, content, split), f"fitted: {why}")


def _older(lake: Lake, released: StoredSpace, content: Content) -> Version:
    """Make the released vectors of today's items, with the evidence of the day of the release."""
    release = lake.shown()
    assert release is not None  # its space is here
    before = load_collaborative(lake, "train", at=release.tables["collaborative_vectors"])
    past = load_residuals(lake, "train", at=release.tables["item_residuals"])
    known = released.turned(before, load_ids(lake))
    return Version.of(released.space, released.space.views(content, known, past))


def _across(
    lake: Lake,
    older: Version,
    stored: StoredSpace,
    past: Residuals,
    content: Content,
    split: Split,
) -> list[dict[str, float]]:
    """Compare older vectors with those of a space and its residuals, at every dim."""
    views = stored.space.views(content, evidence(lake, stored, "train"), past)
    newer = Version.of(stored.space, views)
    cases = trial(split, on="validation", max_users=JUDGES, seed=lake.settings.seed)
    return [
        {"dim": dim} | cross_version(older, newer, cases, dim=dim) for dim in lake.settings.dims
    ]


def ratio(matrix: list[dict[str, float]]) -> float:
    """Return the least that old users find of what they found, among new items, over dims."""
    return min(row["ratio"] for row in matrix)


def _fitted(lake: Lake, content: Content, split: Split) -> tuple[StoredSpace, Residuals]:
    """Fit a space to the training period, turn it towards the released one and store it."""
    fitted = fit(
        content,
        split,
        recipe=Recipe(**lake.built("collaborative_vectors").metadata["recipe"]),
        dims=lake.settings.dims,
        seed=lake.settings.seed,
        progress=lake.progress,
    )
    space, residuals = _turned(lake, content, fitted)
    anchors = load_ids(lake).take(pa.array(space.anchors.rows)).to_pylist()
    stored = StoredSpace(space.space_id, space, anchors)
    row = {
        "space_id": stored.space_id,
        "description": json.dumps({"space": space.description(), "anchor_ids": anchors}),
        "weights": save_arrays(space.arrays()),
    }
    lake.tables.upsert("spaces", pa.Table.from_pylist([row], schema=SPACES))
    return stored, residuals


def _turned(lake: Lake, content: Content, fitted: Fitted) -> tuple[ItemSpace, Residuals]:
    """Turn a new space towards the released vectors of the items that both have, at equal dims."""
    space, known, added = fitted
    release = lake.shown()
    if release is None or "makings" not in release.description or release.dims != space.dims:
        return space, added
    version = release.tables["item_vectors"]
    columns = ["item_id", *PUBLISHED]
    table = lake.tables.read("item_vectors", columns=columns, version=version)
    rows = pc.index_in(load_ids(lake), table["item_id"])
    here, there = pc.is_valid(rows).to_numpy(zero_copy_only=False), rows.drop_null().to_numpy()
    if not len(there):
        return space, added
    now = Published.of(space.views(content, known, added))
    before = Published(*(matrix(table[name])[there] for name in PUBLISHED))
    return towards(space, added, Published(*(part[here] for part in now)), before)
