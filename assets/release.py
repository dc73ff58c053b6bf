"""Assets that measure and publish: quality, and the release that makes all of it visible."""

from time import monotonic
from typing import Any

import dagster as dg

from alignment import evaluate
from alignment.interactions import leave_last_out
from assets import checks
from assets.lake import Lake, digest
from assets.report import markdown_table, recall_plot, verdict
from assets.space import (
    MODALITIES,
    VIEWS,
    evidence,
    load_content,
    load_sequences,
    load_space,
    makings,
)
from store import releases

PINNED = ("items", "interactions", "text_vectors", "image_vectors", "collaborative_vectors")


@dg.asset(
    deps=["item_vectors", "interactions"],
    group_name="release",
    kinds={"python"},
    owners=["team:itemnest"],
    check_specs=[
        dg.AssetCheckSpec("beats_popularity", asset="quality", blocking=True),
        dg.AssetCheckSpec("holds_against_the_last_release", asset="quality", blocking=True),
    ],
)
def quality(lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
    """Recall of every view at every granularity, warm and cold, beside its floors."""
    inputs = digest(lake.built("item_vectors").inputs, lake.built("interactions").inputs)
    build = lake.unchanged("quality", inputs)
    what = "unchanged" if build else "measured"
    if build is None:
        build = lake.record("quality", inputs, {}, _measure(lake))
    rows, dims = build.metadata["rows"], lake.settings.dims
    last = releases.current(lake.tables)
    warm = [r for r in rows if r["slice"] == "warm" and r["split"] == "test" and r["masked"]]
    cold = [r for r in rows if r["slice"] == "cold"]
    return dg.MaterializeResult(
        metadata={
            "what": what,
            "recall by granularity": recall_plot(warm, dims),
            "warm": markdown_table(warm),
            "cold": markdown_table(cold),
            "evaluation seconds": build.metadata["seconds"],
        },
        check_results=[
            verdict("beats_popularity", checks.beats_popularity(rows)),
            verdict(
                "holds_against_the_last_release",
                checks.holds_against(rows, last.quality.get("rows") if last else None),
            ),
        ],
    )


def _measure(lake: Lake) -> dict[str, Any]:
    started = monotonic()
    stored = load_space(lake)
    rows = evaluate.report(
        stored.space,
        load_content(lake),
        leave_last_out(load_sequences(lake)),
        dims=lake.settings.dims,
        seed=lake.settings.seed,
        evidence=evidence(lake, stored, "train"),
        progress=lake.progress,
    )
    return {"rows": rows, "seconds": round(monotonic() - started, 2)}


@dg.asset(deps=["quality"], group_name="release", kinds={"lancedb"}, owners=["team:itemnest"])
def release(lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
    """One row that makes all tables visible at once; none when nothing changed."""
    vectors, items = lake.built("item_vectors"), lake.built("items")
    inputs = digest(vectors.inputs, lake.built("quality").inputs, items.inputs)
    current = releases.current(lake.tables)
    what = "nothing changed, no new release"
    if current is None or current.inputs != inputs:
        current = releases.publish(lake.tables, _draft(lake, inputs))
        lake.tables.maintain(releases.pinned(lake.tables, keep=lake.settings.release.keep))
        what = f"published {current.name}"
    return dg.MaterializeResult(
        metadata={
            "what": what,
            "release": current.name,
            "space": current.space_id,
            "basis": current.basis_id,
            "refresh": current.refresh_id,
            "tables": markdown_table(
                [{"table": t, "version": v} for t, v in current.tables.items()]
            ),
        }
    )


def _draft(lake: Lake, inputs: str) -> releases.Draft:
    space, vectors = lake.built("item_space").metadata, lake.built("item_vectors")
    tables = dict(vectors.tables)
    for asset in (*PINNED, "item_space"):
        tables |= lake.built(asset).tables
    return releases.Draft(
        space_id=space["space_id"],
        basis_id=space["basis_id"],
        refresh_id=vectors.inputs,
        inputs=inputs,
        tables=tables,
        description={
            "dims": list(lake.settings.dims),
            "width": max(lake.settings.dims),
            "views": VIEWS,
            "default_view": "fused",
            "normalisation": "every published prefix is a unit row",
            "encoders": {
                m: {"name": t.name, "digest": t.digest, "dim": t.dim}
                for m in MODALITIES
                if (t := lake.tower(m))
            },
            "makings": makings(lake),
            "space": space["description"],
            "cross_version": space["cross_version"],
        },
        quality={"rows": lake.built("quality").metadata["rows"]},
    )
