"""Assets from behaviour and content to item vectors: factors, the space, and its application.

The arithmetic is alignment's and the arrays come from `assets.stored`; whether the released space
is kept (a refresh) or a new one is fitted, `assets.settle` decides.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alignment.collaborative import Collaborative, Recipe, factorise
from alignment.fit import choose_recipe, outgrown
from alignment.fuse import Residuals
from alignment.interactions import leave_last_out
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
from assets.settle import settled
from assets.stored import (
    columns,
    evidence,
    load_content,
    load_residuals,
    load_space,
    released_space,
    vector_rows,
)
from store.schema import (
    collaborative_schema,
    matrix,
    residuals_schema,
    vector_array,
    vector_key,
)

PERIODS = ("train", "all")
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
    """Factorise both periods, by the released space's recipe or by one chosen on validation.

    It is chosen anew where the log has outgrown that space.
    """
    dims, seed, method = lake.settings.dims, lake.settings.seed, lake.settings.collaborative.method
    everything = load_sequences(lake)
    split = leave_last_out(everything)
    released = released_space(lake)
    if released and not outgrown(released.space, split.train.support):
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


def _kept_or_fitted(lake: Lake, inputs: str) -> tuple[Build, str]:
    """Keep the released space or fit one, store what the log adds in it, and say which it was."""
    content, log = load_content(lake), load_sequences(lake)
    stored, past, matrix, what = settled(lake, content, leave_last_out(log))
    everything = stored.space.learn(content, evidence(lake, stored, "all"), log)
    written = _residuals(lake, {"train": past, "all": everything})
    metadata = {
        "space_id": stored.space_id,
        "basis_id": stored.space.basis_id,
        "cross_version": matrix,
        "description": stored.space.description(),
    }
    return lake.record("item_space", inputs, lake.versions("spaces") | written, metadata), what


def _residuals(lake: Lake, periods: Mapping[str, Residuals]) -> dict[str, int]:
    """Store what is added to items by period; items to which nothing is added have no row."""
    ids, tables = load_ids(lake), []
    for period, found in periods.items():
        some = np.flatnonzero(found.context.any(axis=1) | found.target.any(axis=1))
        context, target = (rows[some].astype(np.float16) for rows in (found.context, found.target))
        columns = _of_period(ids.take(pa.array(some)), period, context, target)
        tables.append(pa.table(columns, schema=residuals_schema(found.context.shape[1])))
    return {"item_residuals": lake.tables.replace("item_residuals", pa.concat_tables(tables))}


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
