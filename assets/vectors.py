"""Assets that turn items into raw encoder outputs: text_vectors and image_vectors."""

from typing import Any

import dagster as dg

from assets.encode import encode
from assets.lake import Build, Lake
from assets.report import thumbnails


@dg.asset(
    deps=["items"],
    group_name="encoders",
    kinds={"torch", "lancedb"},
    owners=["team:itemnest"],
)
def text_vectors(lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
    """Raw text encoder output: one float16 vector per item that has text."""
    return dg.MaterializeResult(metadata=_metadata(encode(lake, "text")))


@dg.asset(
    deps=["items"],
    group_name="encoders",
    kinds={"torch", "lancedb"},
    owners=["team:itemnest"],
)
def image_vectors(lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
    """Raw image encoder output: one float16 vector per item that has a usable image."""
    build = encode(lake, "image")
    return dg.MaterializeResult(metadata={**_metadata(build), "pictures": thumbnails(lake)})


def _metadata(build: Build) -> dict[str, Any]:
    found = dict(build.metadata)
    encoded = found["encoded"]
    what = f"{encoded:,} encoded by {found['encoder']}" if encoded else "nothing to encode"
    return {"what": what, "dagster/row_count": found.pop("rows"), **found}
