"""Assets that measure and publish: quality, and the release that makes all of it visible."""

from time import monotonic
from typing import Any

import dagster as dg

from alignment import evaluate
from alignment.improve import Fitted
from alignment.interactions import leave_last_out
from assets import checks
from assets.cached import REFUSED
from assets.inputs import (
    UPSTREAM,
    collaborative_inputs,
    description_inputs,
    encoding_inputs,
    makings,
    quality_inputs,
    release_inputs,
    space_inputs,
    vectors_inputs,
)
from assets.lake import Lake
from assets.report import markdown_table, recall_plot, verdict, warning
from assets.sequences import load_sequences
from assets.stored import VIEWS, evidence, load_content, load_residuals, load_space
from encoders.spec import MODALITIES
from store import releases

PINNED = ("items", "interactions", "item_descriptions", *UPSTREAM)


@dg.asset(
    deps=["item_vectors", "interactions"],
    group_name="release",
    kinds={"python"},
    owners=["team:itemnest"],
    check_specs=[
        dg.AssetCheckSpec("beats_popularity", asset="quality", blocking=True),
        dg.AssetCheckSpec("holds_against_the_last_release", asset="quality", blocking=True),
        dg.AssetCheckSpec("beats_every_floor", asset="quality"),
    ],
)
def quality(lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
    """Recall of every view at every granularity, warm and cold, beside its floors."""
    inputs = quality_inputs(lake)
    build = lake.unchanged("quality", inputs)
    what = "unchanged" if build else "measured"
    if build is None:
        build = lake.record("quality", inputs, {}, _measure(lake))
    rows, dims = build.metadata["rows"], lake.settings.dims
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
            *(verdict(lake, *found) for found in _verdicts(lake, rows).items()),
            warning("beats_every_floor", checks.beats_every_floor(rows)),
        ],
    )


def _verdicts(lake: Lake, rows: list[dict[str, Any]]) -> dict[str, checks.Verdict]:
    last = lake.shown()
    before = last.quality.get("rows") if last else None
    return {
        "beats_popularity": checks.beats_popularity(rows),
        "holds_against_the_last_release": checks.holds_against(rows, before),
    }


def _measure(lake: Lake) -> dict[str, Any]:
    started = monotonic()
    stored = load_space(lake)
    rows = evaluate.report(
        Fitted(stored.space, evidence(lake, stored, "train"), load_residuals(lake, "train")),
        load_content(lake),
        leave_last_out(load_sequences(lake)),
        dims=lake.settings.dims,
        seed=lake.settings.seed,
        progress=lake.progress,
    )
    return {"rows": rows, "seconds": round(monotonic() - started, 2)}


@dg.asset(deps=["quality"], group_name="release", kinds={"lancedb"}, owners=["team:itemnest"])
def release(lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
    """One row that makes all tables visible at once; none when nothing changed."""
    channel = lake.settings.release.channel
    log = [row for row in releases.history(lake.tables) if row.channel == channel]
    inputs = release_inputs(lake)
    if inputs in _settled(log):
        current, what = log[-1], "nothing changed, no new release"
    else:
        _refuse_unfit(lake)
        current = releases.publish(lake.tables, _draft(lake, inputs), channel)
        what = f"published {current.name}"
    # Also where nothing is new: items that were added since have left fragments and versions.
    lake.tables.maintain(releases.pinned(lake.tables, keep=lake.settings.release.keep))
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


def _settled(log: list[releases.Release]) -> set[str]:
    """Return the inputs that call for no release, given what a channel has shown so far.

    Those of what it shows, and of what it was moved away from by hand: that must last.
    """
    published = [row for row in log if row.kind == "publish"]
    forward = [row for row in log if row.kind != "rollback"]
    return {row.inputs for row in (*published[-1:], *forward[-1:], *log[-1:])}


def _refuse_unfit(lake: Lake) -> None:
    """Refuse builds that do not follow from each other, or that failed a check in another run.

    Blocking checks hold within one run; assets can be materialized one by one.
    """
    follows = {
        "item_descriptions": description_inputs(lake),
        **{f"{modality}_vectors": encoding_inputs(lake, modality) for modality in MODALITIES},
        "collaborative_vectors": collaborative_inputs(lake),
        "item_space": space_inputs(lake),
        "item_vectors": vectors_inputs(lake),
        "quality": quality_inputs(lake),
    }
    stale = [name for name, inputs in follows.items() if lake.built(name).inputs != inputs]
    if stale:
        raise RuntimeError(
            f"{', '.join(stale)}: built from other inputs than there are now: "
            "materialize all assets together"
        )
    for name, found in _verdicts(lake, lake.built("quality").metadata["rows"]).items():
        if not found.passed and name not in lake.accepted:
            raise RuntimeError(f"{name}: {found.reason}")


def _draft(lake: Lake, inputs: str) -> releases.Draft:
    space, vectors = lake.built("item_space").metadata, lake.built("item_vectors")
    tables = dict(vectors.tables)
    for asset in (*PINNED, "item_space"):
        tables |= lake.built(asset).tables
    tables |= lake.versions(REFUSED)  # which all encoders write
    measured = lake.built("quality").metadata
    return releases.Draft(
        space_id=space["space_id"],
        basis_id=space["basis_id"],
        refresh_id=vectors.inputs,
        inputs=inputs,
        tables=tables,
        description=_description(lake, space),
        quality={name: measured[name] for name in ("rows", "carried_from") if name in measured},
    )


def _description(lake: Lake, space: dict[str, Any]) -> dict[str, Any]:
    return {
        "dims": list(lake.settings.dims),
        "width": max(lake.settings.dims),
        "views": VIEWS,
        "default_view": "fused",
        "normalisation": "every published prefix is a unit row",
        "encoders": {
            m: {"choice": t.choice.as_data(), "digest": t.digest, "dim": t.dim}
            for m in MODALITIES
            if (t := lake.tower(m))
        },
        "makings": makings(lake),
        "accepted": sorted(lake.accepted),
        "space": space["description"],
        "cross_version": space["cross_version"],
    }
