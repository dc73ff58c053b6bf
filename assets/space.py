"""Assets from behaviour and content to item vectors: factors, the space, and its application.

The arithmetic is alignment's and the arrays come from `assets.stored`; here it is decided whether
the released space is kept (a refresh) or a new one is fitted.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from safetensors.numpy import save as save_arrays

from alignment.collaborative import Collaborative, Recipe, factorise
from alignment.consumer import trial
from alignment.fit import choose_recipe, fit, relearn
from alignment.fuse import Residuals
from alignment.improve import Fitted
from alignment.interactions import Split, leave_last_out
from alignment.space import ItemSpace
from alignment.towards import Published, towards
from alignment.versions import Version, cross_version
from alignment.whiten import Content
from assets import checks
from assets.inputs import (
    UPSTREAM,
    collaborative_inputs,
    load_ids,
    space_inputs,
    vectors_inputs,
)
from assets.lake import Build, Lake
from assets.report import markdown_table, verdict
from assets.sequences import load_sequences
from assets.stored import (
    StoredSpace,
    columns,
    evidence,
    load_collaborative,
    load_content,
    load_residuals,
    load_space,
    released_space,
    vector_rows,
)
from store.schema import (
    SPACES,
    collaborative_schema,
    matrix,
    residuals_schema,
    vector_array,
    vector_key,
)

JUDGES = 3000  # users whose recall says whether a space is kept
KEPT = 0.95  # of the recall must survive across versions, else the space is a new one
PERIODS = ("train", "all")
PUBLISHED = ("aligned", "fused_context", "fused_target")  # what is trained, as columns
PRESENCE = ("has_text", "has_image", "has_multimodal")


@dg.asset(
    deps=["items", "interactions"],
    group_name="space",
    kinds={"scipy", "lancedb"},
    owners=["team:itemnest"],
)
def collaborative_vectors(lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
    """What users do with items: directed co-visit factors, of the training period and of all."""
    inputs = collaborative_inputs(lake)
    build = lake.unchanged("collaborative_vectors", inputs)
    what = "unchanged" if build else "factorised"
    if build is None:
        recipe, periods = factorised(lake)
        rows = pa.concat_tables([_rows(lake, period, periods[period]) for period in PERIODS])
        table = {"collaborative_vectors": lake.tables.replace("collaborative_vectors", rows)}
        metadata = {"rows": len(rows), "recipe": asdict(recipe)}
        build = lake.record("collaborative_vectors", inputs, table, metadata)
    return dg.MaterializeResult(
        metadata={
            "what": what,
            "dagster/row_count": build.metadata["rows"],
            "recipe": markdown_table([build.metadata["recipe"]]),
        }
    )


def factorised(lake: Lake) -> tuple[Recipe, dict[str, Collaborative]]:
    """Factorise both periods, by the released space's recipe or by one chosen on validation."""
    dims, seed, method = lake.settings.dims, lake.settings.seed, lake.settings.collaborative.method
    everything = load_sequences(lake)
    split = leave_last_out(everything)
    if released := released_space(lake):
        recipe = released.space.recipe
    else:
        recipe = choose_recipe(split, dims=dims, seed=seed, method=method, progress=lake.progress)
    sequences = {"train": split.train, "all": everything}
    return recipe, {
        period: factorise(sequences[period], dim=max(dims), seed=seed, recipe=recipe)
        for period in PERIODS
    }


def _rows(lake: Lake, period: str, known: Collaborative) -> pa.Table:
    ids = load_ids(lake)
    columns = _of_period(ids, period, known.context, known.target)
    schema = collaborative_schema(known.context.shape[1])
    return pa.table({**columns, "support": pa.array(known.support, pa.int32())}, schema=schema)


def _of_period(
    ids: pa.Array, period: str, context: NDArray[Any], target: NDArray[Any]
) -> dict[str, pa.Array]:
    """Return the columns of two vectors of items that a period of the log makes."""
    return {
        "key": vector_key(ids, period),
        "item_id": ids,
        "period": pa.array([period] * len(ids)),
        "context": vector_array(context),
        "target": vector_array(target),
    }


@dg.asset(
    deps=list(UPSTREAM),
    group_name="space",
    kinds={"torch", "lancedb"},
    owners=["team:itemnest"],
)
def item_space(lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
    """The trained space (whitening, nested head, map, dial, basis); kept while it serves.

    And what the log of each period adds in it, item by item.
    """
    inputs = space_inputs(lake)
    build, what = lake.unchanged("item_space", inputs), "unchanged"
    if build is None:
        build, what = _kept_or_fitted(lake, inputs)
    chosen = [{"choice": k, "value": str(v)} for k, v in build.metadata["description"].items()]
    return dg.MaterializeResult(
        metadata={
            "what": what,
            "space": build.metadata["space_id"],
            "basis": build.metadata["basis_id"],
            "chosen": markdown_table(chosen),
            "across versions": markdown_table(build.metadata["cross_version"]),
        }
    )


class Settled(NamedTuple):
    """A space, what the training period adds in it, and how it stands to the released vectors.

    matrix: R@10 of old and new users among old and new items at every dim, on validation, both
    sides with the evidence of their training period only; empty where there is nothing to compare.
    """

    stored: StoredSpace
    past: Residuals
    matrix: list[dict[str, float]]
    what: str


def _kept_or_fitted(lake: Lake, inputs: str) -> tuple[Build, str]:
    """Keep the released space or fit one, store what the log adds in it, and say which it was."""
    content, log = load_content(lake), load_sequences(lake)
    stored, past, matrix, what = _settled(lake, content, leave_last_out(log))
    everything = stored.space.learn(content, evidence(lake, stored, "all"), log)
    written = _residuals(lake, {"train": past, "all": everything})
    metadata = {
        "space_id": stored.space_id,
        "basis_id": stored.space.basis_id,
        "cross_version": matrix,
        "description": stored.space.description(),
    }
    return lake.record("item_space", inputs, lake.versions("spaces") | written, metadata), what


def _settled(lake: Lake, content: Content, split: Split) -> Settled:
    """Keep the released space if the last release's users still find what they want in it."""
    released = released_space(lake)
    if released is None:
        return Settled(*_fitted(lake, content, split), [], "fitted")
    older = _older(lake, released, content)
    now = relearn(released.space, content, evidence(lake, released, "train"), split)
    kept = replace(released, space=now.space), now.residuals
    matrix = _across(lake, older, *kept, content, split)
    survived = f"{ratio(matrix):.3f} of the recall across versions"
    if ratio(matrix) >= KEPT:
        return Settled(*kept, matrix, f"kept: {survived}")
    new = _fitted(lake, content, split)
    return Settled(
        *new,
        _across(lake, older, *new, content, split),
        f"fitted: the released space keeps {survived}, {KEPT} are needed",
    )


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


def _residuals(lake: Lake, periods: Mapping[str, Residuals]) -> dict[str, int]:
    """Store what is added to items by period; items to which nothing is added have no row."""
    ids, tables = load_ids(lake), []
    for period, found in periods.items():
        some = np.flatnonzero(found.context.any(axis=1) | found.target.any(axis=1))
        context, target = (rows[some].astype(np.float16) for rows in (found.context, found.target))
        columns = _of_period(ids.take(pa.array(some)), period, context, target)
        tables.append(pa.table(columns, schema=residuals_schema(found.context.shape[1])))
    return {"item_residuals": lake.tables.replace("item_residuals", pa.concat_tables(tables))}


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


@dg.asset(
    deps=["item_space"],
    group_name="space",
    kinds={"numpy", "lancedb"},
    owners=["team:itemnest"],
    check_specs=[
        dg.AssetCheckSpec("rows_are_unit", asset="item_vectors", blocking=True),
        dg.AssetCheckSpec("every_item_has_one_vector", asset="item_vectors", blocking=True),
    ],
)
def item_vectors(lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
    """One full-width unit vector per item, view and role, whose prefixes are the granularities."""
    inputs = vectors_inputs(lake)
    build = lake.unchanged("item_vectors", inputs)
    what = "unchanged" if build else "applied"
    if build is None:
        table = _applied(lake)
        written = {"item_vectors": lake.tables.replace("item_vectors", table)}
        build = lake.record("item_vectors", inputs, written, {"rows": len(table)})
    rows = lake.read("item_vectors")
    views = {name: matrix(rows[name]) for name in columns()}
    return dg.MaterializeResult(
        metadata={
            "what": what,
            "dagster/row_count": build.metadata["rows"],
            "coverage": markdown_table([_coverage(rows)]),
        },
        check_results=[
            verdict(lake, "rows_are_unit", checks.rows_are_unit(views)),
            verdict(
                lake,
                "every_item_has_one_vector",
                checks.every_item_has_one_vector(
                    lake.read("items", columns=["item_id"])["item_id"], rows["item_id"]
                ),
            ),
        ],
    )


def _applied(lake: Lake) -> pa.Table:
    stored = load_space(lake)
    known, added = evidence(lake, stored, "all"), load_residuals(lake, "all")
    return vector_rows(stored, load_ids(lake), load_content(lake), known, added)


def _coverage(rows: pa.Table) -> Mapping[str, Any]:
    counted = {name: pc.sum(rows[name]).as_py() for name in PRESENCE}
    cold = pc.sum(pc.equal(rows["support"], 0)).as_py()
    return {"items": len(rows), **counted, "cold": cold}
