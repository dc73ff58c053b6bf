"""Assets that turn items into what models make of them: descriptions, and raw encoder outputs."""

from typing import Any

import dagster as dg

from assets.cached import refusals
from assets.describe import describe
from assets.encode import encode
from assets.inputs import load_said
from assets.lake import Build, Lake
from assets.report import markdown_table, sample_rows, thumbnails
from encoders.engine import Engine
from encoders.spec import Modality


@dg.asset(
    deps=["items"],
    group_name="encoders",
    kinds={"torch", "lancedb"},
    owners=["team:itemnest"],
)
def item_descriptions(
    lake: dg.ResourceParam[Lake], engine: dg.ResourceParam[Engine]
) -> dg.MaterializeResult:
    """What a multimodal language model says about each item, with what it was made from."""
    build = describe(lake, engine)
    found = dict(build.metadata)
    said = load_said(lake, columns=("description",))
    what = f"{found['described']:,} described" if found["described"] else "nothing to describe"
    if found["waiting"]:
        what += f", {found['waiting']:,} wait for the next run"
    metadata = {"dagster/row_count": found.pop("rows"), **found}
    if len(said):
        metadata["sample"] = sample_rows(said.select(["item_id", "description"]))
    return dg.MaterializeResult(metadata={"what": what, **metadata})


@dg.asset(
    deps=["items", "item_descriptions"],
    group_name="encoders",
    kinds={"openvino", "lancedb"},
    owners=["team:itemnest"],
)
def text_vectors(
    lake: dg.ResourceParam[Lake], engine: dg.ResourceParam[Engine]
) -> dg.MaterializeResult:
    """Raw text encoder output: one float16 vector per item that has text."""
    return dg.MaterializeResult(metadata=_metadata(lake, "text", encode(lake, engine, "text")))


@dg.asset(
    deps=["items"],
    group_name="encoders",
    kinds={"openvino", "lancedb"},
    owners=["team:itemnest"],
)
def image_vectors(
    lake: dg.ResourceParam[Lake], engine: dg.ResourceParam[Engine]
) -> dg.MaterializeResult:
    """Raw image encoder output: one float16 vector per item that has a usable image."""
    metadata = _metadata(lake, "image", encode(lake, engine, "image"))
    return dg.MaterializeResult(metadata={**metadata, "pictures": thumbnails(lake)})


@dg.asset(
    deps=["items"],
    group_name="encoders",
    kinds={"torch", "lancedb"},
    owners=["team:itemnest"],
)
def multimodal_vectors(
    lake: dg.ResourceParam[Lake], engine: dg.ResourceParam[Engine]
) -> dg.MaterializeResult:
    """Raw output of a tower that reads text and image at once: one float16 vector per item."""
    build = encode(lake, engine, "multimodal")
    return dg.MaterializeResult(metadata=_metadata(lake, "multimodal", build))


def _metadata(lake: Lake, modality: Modality, build: Build) -> dict[str, Any]:
    found = dict(build.metadata)
    encoded = found["encoded"]
    what = f"{encoded:,} encoded by {found['encoder']}" if encoded else "nothing to encode"
    if found.get("refused"):
        what += f", {found['refused']:,} refused"
        tower = lake.tower(modality)
        rows = refusals(lake, modality, tower.digest if tower else "").to_pylist()[:20]
        shown = [{k: row[k] for k in ("item_id", "reason", "detail")} for row in rows]
        found["refusals"] = markdown_table(shown)
    return {"what": what, "dagster/row_count": found.pop("rows"), **found}
